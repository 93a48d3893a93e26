package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newPushCmd(a *app) *cobra.Command {
	var (
		reg   registryFlags
		opts  engine.PushOptions
		quiet bool
	)
	cmd := &cobra.Command{
		Use:     "push [flags] IMAGE [NAME[:TAG]]",
		GroupID: groupRegistries,
		Short:   "Upload an image to a registry",
		Long: `Upload an image to a registry, under its own name or another.

An image that was pulled or loaded is pushed as it came, with the same digests. Layers that
were made here are kept uncompressed, and compressed on the way. What the registry has
already, in this repository or in another from which it can be taken, is not sent.`,
		Example: `  tarn push registry.example.com/team/app:1.2
  tarn push debian-hello registry.example.com/team/hello
  tarn push --compression zstd hello registry.local:5000/hello`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) == 2 {
				to = args[1]
			}
			opts.Registry = reg.options(a)
			return a.push(cmd, args[0], to, opts, quiet)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	flags := cmd.Flags()
	reg.add(flags)
	flags.StringVar(&opts.Compression, "compression", "gzip", "`how` layers made here are compressed: gzip, zstd or none")
	flags.IntVar(&opts.Level, "compression-level", 0, "`level` of the compression (default: 2 for gzip, 3 for zstd)")
	flags.BoolVar(&opts.Recompress, "force-compression", false, "compress all layers so; the digests are new then")
	flags.BoolVar(&opts.All, "all", false, "send signatures and other referrers that 'tarn pull --all' fetched with the image, too")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print only the name with its digest")
	return cmd
}

func (a *app) push(cmd *cobra.Command, name, to string, opts engine.PushOptions, quiet bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	shown := newProgress(os.Stderr, quiet, true)
	opts.Report = shown.report
	pushed, err := e.Push(cmd.Context(), name, to, opts)
	shown.close()
	if err != nil {
		return err
	}
	if quiet {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), pushed.Name.WithDigest(pushed.Digest))
	} else {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: digest: %s size: %d\n", pushed.Name.Tag(), pushed.Digest, pushed.Size)
	}
	return err
}
