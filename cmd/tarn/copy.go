package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newCopyCmd(a *app) *cobra.Command {
	var (
		reg      registryFlags
		opts     engine.CopyOptions
		platform string
		quiet    bool
	)
	cmd := &cobra.Command{
		Use:     "copy [flags] FROM TO",
		GroupID: groupRegistries,
		Short:   "Copy an image from registry to registry",
		Long: `Copy an image from registry to registry, or within one, with the digests it has.

Nothing is kept here. An index is copied with the images of all platforms, unless
--platform chooses one. What TO's registry has already is not sent.`,
		Example: `  tarn copy debian:12 registry.example.com/mirror/debian:12
  tarn copy --platform linux/arm64 debian:12 registry.local:5000/debian
  tarn copy --all registry.example.com/team/app:1 registry.example.com/release/app:1`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Registry = reg.options(a)
			if platform != "" {
				chosen, err := parsePlatform(platform)
				if err != nil {
					return err
				}
				opts.Platform = &chosen
			}
			shown := newProgress(os.Stderr, quiet, true)
			opts.Report = shown.report
			copied, err := engine.Copy(cmd.Context(), args[0], args[1], opts)
			shown.close()
			if err != nil {
				return err
			}
			if opts.All && !quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "Signatures and other referrers: %d\n", copied.Companions)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), copied.Name.WithDigest(copied.Digest))
			return err
		},
	}
	flags := cmd.Flags()
	reg.add(flags)
	flags.StringVar(&platform, "platform", "", "`os/architecture[/variant]` to copy alone (default: all)")
	flags.BoolVar(&opts.All, "all", false, "copy signatures, attestations and other referrers, too")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print only the name with its digest")
	return cmd
}
