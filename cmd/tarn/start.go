package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newStartCmd(a *app) *cobra.Command {
	var (
		opts    engine.StartOptions
		all     bool
		filters []string
	)
	cmd := &cobra.Command{
		Use:     "start [flags] CONTAINER...",
		GroupID: groupContainers,
		Short:   "Start containers that do not run",
		Long: `Start containers that do not run, in the background: each as it was made, with what it has
written. With --attach the status is the container's.

When the machine starts, the service tarn-restart (see 'make install') starts the
containers with the policy always, and those with unless-stopped that nobody has stopped.`,
		Example: `  tarn start work
  tarn start -ai work                           # and be attached to it
  tarn start --all --filter should-start-on-boot=true`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return arguments(0, 0)(cmd, args)
			}
			return arguments(1, -1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			attach := opts.Attach || opts.Input
			if attach && (len(args) != 1 || all) {
				return usageError(cmd, errors.New("only one container can be attached to"))
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if attach {
				start := engine.StartOptions{Attach: true, Streams: standardStreams(opts.Streams)}
				return leave(e.Start(cmd.Context(), args[0], start))
			}
			if len(filters) > 0 || all {
				if args, err = selectStart(cmd, e, filters); err != nil {
					return err
				}
			}
			return eachNamed(cmd, args, func(name string) error {
				_, err := e.Start(cmd.Context(), name, engine.StartOptions{})
				return err
			})
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Attach, "attach", "a", false, "be attached to its output, and pass signals on")
	flags.BoolVarP(&opts.Input, "interactive", "i", false, "be attached to its input, too")
	flags.BoolVar(&opts.SigProxy, "sig-proxy", true, "with --attach: pass signals on")
	flags.StringVar(&opts.DetachKeys, "detach-keys", "", "`keys` to leave a terminal with (default: ctrl-p,ctrl-q)")
	flags.BoolVar(&all, "all", false, "start all that do not run, or those that --filter selects")
	listVarP(flags, &filters, "filter", "f", "with --all: only containers with `KEY=VALUE`, as in 'tarn ps'")
	return cmd
}

// selectStart lists the containers that do not run.
func selectStart(cmd *cobra.Command, e *engine.Engine, filters []string) ([]string, error) {
	filter, err := engine.ParseContainerFilter(filters, true)
	if err != nil {
		return nil, err
	}
	list, err := e.Containers(cmd.Context(), filter)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list {
		if s := c.Status(); s == engine.StatusCreated || s == engine.StatusExited {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// standardStreams adds our own standard files.
func standardStreams(s engine.Streams) engine.Streams {
	s.Stdin, s.Stdout, s.Stderr = os.Stdin, os.Stdout, os.Stderr
	return s
}

// tarnFailed is the status of "run" when not its command, but tarn failed.
const tarnFailed = 125

// leave makes the status of a command of how a container has ended. One that was left runs on.
func leave(status int, err error) error {
	switch {
	case errors.Is(err, engine.ErrDetached):
		return nil
	case err != nil && status == 0:
		if status = engine.ExitStatus(err); status == tarnFailed {
			status = 1
		}
		return &exitError{status: status, err: err}
	case err != nil || status != 0:
		return &exitError{status: status, err: err}
	default:
		return nil
	}
}

func newRestartCmd(a *app) *cobra.Command {
	var stop stopFlags
	cmd := newEachCmd(a, &cobra.Command{
		Use:   "restart [flags] CONTAINER...",
		Short: "Stop containers, and start them",
		Long: `Stop containers that run, as 'tarn stop' does, and start them, and those that did not
run.`,
		Example: `  tarn restart web
  tarn restart -t 1 web db`,
	}, func(cmd *cobra.Command, e *engine.Engine, name string) error {
		return e.RestartContainer(cmd.Context(), name, stop.options(cmd))
	})
	stop.add(cmd)
	return cmd
}
