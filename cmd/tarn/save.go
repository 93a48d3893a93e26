package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newSaveCmd(a *app) *cobra.Command {
	opts := engine.SaveOptions{Stdout: os.Stdout}
	formats := engine.SaveFormats()
	cmd := &cobra.Command{
		Use:     "save [flags] IMAGE...",
		GroupID: groupImages,
		Short:   "Write images to an archive",
		Long: `Write images to an archive that 'tarn load', 'docker load', 'podman load' and skopeo
read, with layers that they share in it once. Manifest digests and image IDs stay the
same: layers are written as they were compressed when the image came.

A name without a tag stands for all tags of that repository. What is given by its ID is
saved without a name.

docker-archive is an OCI image layout with Docker's manifest.json beside it; oci-archive
and oci-dir are the layout alone, in a tar and in a directory.`,
		Example: `  tarn save -o debian.tar debian:12
  tarn save debian:12 | ssh host tarn load
  tarn save debian:12 myapp:1 myapp:2 | zstd > images.tar.zst
  tarn save --format oci-dir -o layout debian:12`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			opts.Images = args
			return e.Save(cmd.Context(), opts)
		},
		ValidArgsFunction: complete(-1, a.imageNames),
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Output, "output", "o", "", "`file`, or directory, to write (default: standard output)")
	flags.StringVar(&opts.Format, "format", formats[0], "`format`: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
