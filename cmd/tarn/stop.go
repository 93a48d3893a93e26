package main

import (
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
	cmd := newEachCmd(a, &cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Stop containers that run",
		Long: `Stop containers that run: each gets the signal that it or its image names (SIGTERM, if
none), and SIGKILL if it has not ended in time. Its 'tarn run' ends with it. No restart policy
starts it again.`,
		Example: `  tarn stop work
  tarn stop -t 30 -s SIGINT web                 # half a minute's time to end
  tarn stop $(tarn ps -q)`,
	}, func(cmd *cobra.Command, e *engine.Engine, name string) error {
		return e.Stop(cmd.Context(), name, stop.options(cmd))
	})
	stop.add(cmd)
	return cmd
}

func newKillCmd(a *app) *cobra.Command {
	var signal string
	cmd := newEachCmd(a, &cobra.Command{
		Use:   "kill [flags] CONTAINER...",
		Short: "Kill containers that run, or send them a signal",
		Example: `  tarn kill work
  tarn kill -s HUP web`,
	}, func(cmd *cobra.Command, e *engine.Engine, name string) error {
		return e.Kill(cmd.Context(), name, signal)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "`signal` to send")
	return cmd
}
