package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newCpCmd(a *app) *cobra.Command {
	var (
		opts  engine.CpOptions
		quiet bool
	)
	cmd := &cobra.Command{
		Use: `cp [flags] CONTAINER:PATH {PATH | -}
  tarn cp [flags] {PATH | -} CONTAINER:PATH`,
		GroupID: groupContainers,
		Short:   "Copy files between a container and the host",
		Long: `Copy files between a container, running or not, and the host. "-" is a tar: standard
output, or standard input, which may be compressed with gzip or zstd.

A directory is copied with all in it. Where the destination is a directory, the copy is made
in it, under the source's name; PATH/. stands for what is in a directory. Where nothing is,
the copy gets that name; directories above it are not made. A path of the host with a colon
in it begins with "/" or ".".

What is mounted in the container counts, too, but for /proc, /sys and the like. Copies belong
to you, or in a container to its root, without set-user-ID bits, attributes and devices.
With --archive all that is kept, and so are the owners' numbers. What comes from a tar is
always as the tar says.`,
		Example: `  tarn cp web:/var/log/nginx ./logs
  tarn cp site/. web:/srv/www
  tarn cp web:/etc - | tar -t
  tar -c src | tarn cp - build:/usr`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("quiet") {
				quiet = !term.IsTerminal(int(os.Stderr.Fd()))
			}
			opts.Stdin, opts.Stdout = os.Stdin, os.Stdout
			opts.Skipped = func(name string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "tarn: left out %s: it is a device (use --archive)\n", format.Printable(name))
			}
			copied, err := e.Cp(cmd.Context(), args[0], args[1], opts)
			if err == nil && !quiet && args[1] != "-" {
				fmt.Fprintf(cmd.ErrOrStderr(), "Successfully copied %s to %s\n", format.Size(copied), args[1])
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Archive, "archive", "a", false, "keep owners, set-user-ID bits, attributes and devices")
	flags.BoolVarP(&opts.Follow, "follow-link", "L", false, "if the source is a symbolic link, copy what it leads to")
	flags.BoolVarP(&quiet, "quiet", "q", false, "do not say how much was copied (default where no terminal is)")
	return cmd
}
