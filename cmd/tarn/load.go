package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
)

func newLoadCmd(a *app) *cobra.Command {
	opts := engine.LoadOptions{Stdin: os.Stdin}
	var (
		platform string
		quiet    bool
	)
	cmd := &cobra.Command{
		Use:     "load [flags]",
		GroupID: groupImages,
		Short:   "Take in the images of an archive",
		Long: `Take in all images of an archive: one that 'docker save', 'podman save', 'skopeo copy'
or 'tarn save' wrote, or an OCI image layout, as a tar (plain or compressed by gzip or
zstd) or as a directory. Without --input it comes from standard input.

Manifests, image IDs and compressed layers are kept as they are. All is verified before
anything is visible. A bare tag, as umoci and skopeo write it, is taken for a tag of
what the file or directory is named: 12 in debian.tar is debian:12.`,
		Example: `  tarn load -i debian.tar
  docker save debian:12 | tarn load
  tarn load --quiet < images.tar.zst
  skopeo copy docker://debian:12 oci:debian:12 && tarn load -i debian
  tarn load --platform linux/arm64 -i multi.tar`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Platform, err = parsePlatform(platform); err != nil {
				return err
			}
			return a.load(cmd, opts, quiet)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Input, "input", "i", "", "`file` or directory to read (default: standard input)")
	flags.StringVar(&platform, "platform", "", "`os/arch[/variant]` to load of images for several (default: this machine's)")
	flags.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func (a *app) load(cmd *cobra.Command, opts engine.LoadOptions, quiet bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	// As Docker has it, elsewhere than on a terminal there is nothing to see of the progress.
	shown := newProgress(os.Stderr, quiet || !term.IsTerminal(int(os.Stderr.Fd())), false)
	shown.completed = "Loaded"
	opts.Report = shown.report
	images, err := e.Load(cmd.Context(), opts)
	shown.close()
	if err != nil {
		return err
	}
	return printLoaded(cmd.OutOrStdout(), images)
}

// printLoaded says what Docker says.
func printLoaded(w io.Writer, images []engine.LoadedImage) error {
	var text strings.Builder
	for _, img := range images {
		for _, name := range slices.SortedFunc(maps.Keys(img.Moved), byName) {
			fmt.Fprintf(&text, "The image %s already exists, renaming the old one with ID %s to empty string\n", name.Familiar(), img.Moved[name])
		}
		for _, name := range img.Names {
			fmt.Fprintf(&text, "Loaded image: %s\n", name.Familiar())
		}
		if len(img.Names) == 0 {
			fmt.Fprintf(&text, "Loaded image ID: %s\n", img.ID)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func byName(a, b image.Reference) int { return strings.Compare(a.String(), b.String()) }
