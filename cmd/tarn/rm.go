package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newRmCmd(a *app) *cobra.Command {
	var opts engine.RemoveOptions
	cmd := &cobra.Command{
		Use:     "rm [flags] CONTAINER...",
		GroupID: groupContainers,
		Short:   "Remove containers",
		Long: `Remove containers with all that they have written. One that runs is not removed without
--force.

Volumes stay. With --volumes those go that were made for the container and have no name.`,
		Example: `  tarn rm work
  tarn rm -f -v web                             # even if it runs, and its volumes
  tarn rm $(tarn ps -aq --filter status=exited)`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				err := e.RemoveContainer(cmd.Context(), name, opts)
				if opts.Force && errors.Is(err, engine.ErrNoContainer) {
					complain(cmd.ErrOrStderr(), err)
					return nil // it is as it should be
				}
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Force, "force", "f", false, "end those that run; one that is not there is no failure")
	flags.BoolVarP(&opts.Volumes, "volumes", "v", false, "remove the containers' own volumes")
	return cmd
}

// newRmOfCmd makes a command that removes things other than containers and images. missing is what the error wraps if there is
// no such thing.
func newRmOfCmd(a *app, names func(*cobra.Command) ([]string, error), missing error, cmd *cobra.Command,
	remove func(ctx context.Context, e *engine.Engine, name string) error,
) *cobra.Command {
	var force bool
	cmd.Aliases, cmd.Args, cmd.ValidArgsFunction = []string{"remove"}, arguments(1, -1), complete(-1, names)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return each(cmd, args, func(name string) error {
			err := remove(cmd.Context(), e, name)
			if force && errors.Is(err, missing) {
				return nil
			}
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		})
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "one that is not there is no failure")
	return cmd
}
