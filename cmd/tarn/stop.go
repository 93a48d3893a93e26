package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

// stopFlags say how containers are stopped: for "stop" and "restart".
type stopFlags struct {
	signal  string
	seconds int
}

func (f *stopFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.signal, "signal", "s", "", "`signal` to ask with, instead of the container's own")
	flags.IntVarP(&f.seconds, "time", "t", 10, "`seconds` until it is killed; -1 for never")
	flags.IntVar(&f.seconds, "timeout", 10, "the same as --time")
}

func (f *stopFlags) options(cmd *cobra.Command) engine.StopOptions {
	opts := engine.StopOptions{Signal: f.signal}
	if cmd.Flags().Changed("time") || cmd.Flags().Changed("timeout") {
		timeout := time.Duration(f.seconds) * time.Second
		opts.Timeout = &timeout
	}
	return opts
}

func newStopCmd(a *app) *cobra.Command {
	var stop stopFlags
	cmd := &cobra.Command{
		Use:     "stop [flags] CONTAINER...",
		GroupID: groupContainers,
		Short:   "Stop containers that run",
		Long: `Stop containers that run: each gets the signal that it or its image names (SIGTERM, if
none), and SIGKILL if it has not ended in time. Its 'tarn run' ends with it. No restart policy
starts it again.`,
		Example: `  tarn stop work
  tarn stop -t 30 -s SIGINT web                 # half a minute's time to end
  tarn stop $(tarn ps -q)`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				err := e.Stop(cmd.Context(), name, stop.options(cmd))
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	stop.add(cmd)
	return cmd
}

func newKillCmd(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:     "kill [flags] CONTAINER...",
		GroupID: groupContainers,
		Short:   "Kill containers that run, or send them a signal",
		Example: `  tarn kill work
  tarn kill -s HUP web`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				err := e.Kill(cmd.Context(), name, signal)
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "`signal` to send")
	return cmd
}
