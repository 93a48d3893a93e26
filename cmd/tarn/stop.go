package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newStopCmd(a *app) *cobra.Command {
	var opts engine.StopOptions
	var seconds int
	cmd := &cobra.Command{
		Use:     "stop [flags] CONTAINER...",
		GroupID: groupContainers,
		Short:   "Stop containers that run",
		Long: `Stop containers that run: each gets the signal that its image names (SIGTERM, if none),
and SIGKILL if it has not ended in time. Its 'tarn run' ends with it.`,
		Example: `  tarn stop work
  tarn stop -t 30 -s SIGINT web                 # half a minute's time to end
  tarn stop $(tarn ps -q)`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("time") {
				timeout := time.Duration(seconds) * time.Second
				opts.Timeout = &timeout
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) error {
				err := e.Stop(cmd.Context(), name, opts)
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Signal, "signal", "s", "", "`signal` to ask with, instead of the image's")
	flags.IntVarP(&seconds, "time", "t", 10, "`seconds` until it is killed; -1 for never")
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
