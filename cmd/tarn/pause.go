package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
)

// newEachCmd makes a command that does one thing with each container, and prints what it was called.
func newEachCmd(a *app, cmd *cobra.Command, do func(cmd *cobra.Command, e *engine.Engine, name string) error) *cobra.Command {
	cmd.GroupID, cmd.Args, cmd.ValidArgsFunction = groupContainers, arguments(1, -1), complete(-1, a.containerNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return eachNamed(cmd, args, func(name string) error { return do(cmd, e, name) })
	}
	return cmd
}

func newPauseCmd(a *app) *cobra.Command {
	return newEachCmd(a, &cobra.Command{
		Use:     "pause CONTAINER...",
		Short:   "Have all processes of containers stand still",
		Example: `  tarn pause web`,
	}, func(cmd *cobra.Command, e *engine.Engine, name string) error { return e.Pause(cmd.Context(), name) })
}

func newUnpauseCmd(a *app) *cobra.Command {
	return newEachCmd(a, &cobra.Command{
		Use:     "unpause CONTAINER...",
		Short:   "Have the processes of paused containers go on",
		Example: `  tarn unpause web`,
	}, func(cmd *cobra.Command, e *engine.Engine, name string) error { return e.Unpause(cmd.Context(), name) })
}

func newRenameCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rename CONTAINER NAME",
		GroupID: groupContainers,
		Short:   "Give a container another name",
		Example: `  tarn rename quiet_tarn web`,
		Args:    arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Rename(cmd.Context(), args[0], args[1])
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
}

func newWaitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "wait CONTAINER...",
		GroupID: groupContainers,
		Short:   "Wait for the end of containers, and print their statuses",
		Example: `  tarn wait web
  status=$(tarn wait job)`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				status, err := e.Wait(cmd.Context(), name)
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), status)
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
}

func newUpdateCmd(a *app) *cobra.Command {
	var (
		restart string
		limits  engine.ResourceOptions
	)
	cmd := newEachCmd(a, &cobra.Command{
		Use:   "update [flags] CONTAINER...",
		Short: "Change containers, also while they run",
		Long: `Change containers: their limits, at once if they run, and for each start from now on; and
whether they are started again. What no flag names stays as it is.`,
		Example: `  tarn update --restart always web
  tarn update --memory 512m --cpus 1.5 web`,
	}, nil)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var opts engine.UpdateOptions
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if f.Name != "restart" && cmd.LocalFlags().Lookup(f.Name) != nil && cmd.InheritedFlags().Lookup(f.Name) == nil {
				opts.Resources = &limits
			}
		})
		if cmd.Flags().Changed("restart") {
			policy, err := engine.ParseRestartPolicy(restart)
			if err != nil {
				return err
			}
			opts.Restart = &policy
		}
		if (opts == engine.UpdateOptions{}) {
			return usageError(cmd, fmt.Errorf("nothing to change: give a flag"))
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return eachNamed(cmd, args, func(name string) error { return e.Update(cmd.Context(), name, opts) })
	}
	cmd.Flags().StringVar(&restart, "restart", "", "`policy` to start it again: no, on-failure[:TIMES], always or unless-stopped")
	suggest(cmd, "restart", engine.RestartNo, engine.RestartOnFailure, engine.RestartAlways, engine.RestartUnlessStopped)
	addLimits(cmd.Flags(), &limits)
	cmd.Flags().Uint16Var(&limits.BlkioWeight, "blkio-weight", 0, "`weight` among others that want block devices: 10 to 1000")
	return cmd
}
