package main

import (
	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newAttachCmd(a *app) *cobra.Command {
	var (
		streams engine.Streams
		noStdin bool
	)
	cmd := &cobra.Command{
		Use:     "attach [flags] CONTAINER",
		GroupID: groupContainers,
		Short:   "Be attached to a container that runs in the background",
		Long: `Be attached to a container that runs in the background: print what it writes from now on,
and if it was made with -i give it this command's input. It ends with the container, and with
its status. A terminal is left with the detach keys; the container runs on.

What is not read here holds the container up.`,
		Example: `  tarn attach web
  tarn attach --no-stdin web`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			streams.Input = !noStdin
			return leave(e.Attach(cmd.Context(), args[0], standardStreams(streams)))
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.StringVar(&streams.DetachKeys, "detach-keys", "", "`keys` to leave a terminal with (default: ctrl-p,ctrl-q)")
	flags.BoolVar(&noStdin, "no-stdin", false, "give it no input")
	flags.BoolVar(&streams.SigProxy, "sig-proxy", true, "pass signals on")
	return cmd
}

func newExecCmd(a *app) *cobra.Command {
	opts := engine.ExecOptions{}
	cmd := &cobra.Command{
		Use:     "exec [flags] CONTAINER COMMAND [ARG...]",
		GroupID: groupContainers,
		Short:   "Execute a command in a container that runs",
		Long: `Execute a command in a container that runs, and exit with the command's status.

Flags stand before the container's name: what follows it is the command. It ends with this
command, unless that is --detach, or a terminal that is left with the detach keys.`,
		Example: `  tarn exec -it web sh
  tarn exec -u nobody -e A=1 web env
  tarn exec -d web sh -c 'sleep 10; kill -HUP 1'`,
		Args: arguments(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !opts.Terminal || opts.Detach { // else it is a monitor that executes it
				// Before all else: what the container could see of this program.
				if err := engine.SealExecutable(); err != nil {
					return err
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			opts.Command, opts.Streams = args[1:], standardStreams(opts.Streams)
			return leave(e.Exec(cmd.Context(), args[0], opts))
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&opts.Detach, "detach", "d", false, "do not wait for its end")
	flags.StringVar(&opts.DetachKeys, "detach-keys", "", "`keys` to leave a terminal with (default: ctrl-p,ctrl-q)")
	listVarP(flags, &opts.Env, "env", "e", "environment: `NAME=value`, or NAME for the value it has here")
	listVar(flags, &opts.EnvFiles, "env-file", "`file` with lines as --env takes them")
	flags.BoolVarP(&opts.Input, "interactive", "i", false, "the command reads this command's input")
	flags.BoolVar(&opts.Privileged, "privileged", false, "with all capabilities, and no filter of system calls")
	flags.BoolVarP(&opts.Terminal, "tty", "t", false, "the command has a terminal of its own")
	flags.StringVarP(&opts.User, "user", "u", "", "`user` to run as: name or ID, with \":group\" (default: the container's)")
	flags.StringVarP(&opts.WorkDir, "workdir", "w", "", "working `directory` (default: the container's)")
	return cmd
}
