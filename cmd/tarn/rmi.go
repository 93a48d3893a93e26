package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newRmiCmd(a *app) *cobra.Command {
	var opts engine.RemoveImageOptions
	cmd := &cobra.Command{
		Use:     "rmi [flags] IMAGE...",
		GroupID: groupImages,
		Short:   "Remove names of images, and images",
		Long: `Remove names of images. With its last name an image goes, with the layers that no other
image needs, and with images without a name that only it was made from. Named by its ID, an
image goes if it has one name only.

An image that a container uses stays. With --force it loses its names, and is kept without
one until the container is gone.`,
		Example: `  tarn rmi debian:12
  tarn rmi -f 3f2a9c01                          # by ID, with all of its names
  tarn rmi $(tarn images -q --filter dangling=true)`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				removed, err := e.RemoveImage(cmd.Context(), name, opts)
				if opts.Force && errors.Is(err, engine.ErrNoImage) {
					complain(cmd.ErrOrStderr(), err)
					return nil // it is as it should be
				}
				if removed != nil {
					for _, name := range removed.Untagged {
						fmt.Fprintln(cmd.OutOrStdout(), "Untagged: "+name)
					}
					for _, id := range removed.Deleted {
						fmt.Fprintln(cmd.OutOrStdout(), "Deleted: "+id)
					}
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.imageNames),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Force, "force", "f", false, "remove all names of an ID, and those of an image in use; one that is not there is no failure")
	flags.BoolVar(&opts.NoPrune, "no-prune", false, "leave the images without a name that only it was made from")
	return cmd
}
