package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newRunCmd(a *app) *cobra.Command {
	opts := engine.RunOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	var (
		flags  containerFlags
		attach []string
	)
	cmd := &cobra.Command{
		Use:     "run [flags] IMAGE [COMMAND [ARG...]]",
		GroupID: groupContainers,
		Short:   "Run a command in a new container",
		Long: `Run a command in a new container, and exit with the command's status.

Flags stand before the image's name: what follows it is the command. The container is
kept when it ends (see 'tarn ps -a'), unless --rm is given.

By default the container is in the network "bridge": it reaches the world, and is reached by
the ports that are published (-p). Others are made by 'tarn network create', where containers
find each other by name. With "none" it has the loopback interface only, with "host" all of
the host's, with "container:NAME" what that one has. Without root there is "pasta" by default:
the container reaches what the host reaches, and ports are published by pasta(1).

With --userns auto its users are nobody else's on the host: root in it has no power outside,
while its files are root's on the disk. A limit or an option that this machine cannot carry
out is an error: none is ignored.

The status is 125 when tarn itself failed, 126 when the command cannot be executed, 127
when it is not there, else the command's: 128 and the number of a signal that ended it.`,
		Example: `  tarn run --rm -it base                                  # a shell, removed when it ends
  tarn run --name work debian apt-get --version
  echo hello | tarn run --rm -i base cat
  tarn run --rm -v "$PWD:/src:ro" -w /src debian make
  tarn run --rm -p 8080:80 nginx
  tarn run --rm --userns auto --cpus 1.5 -m 512m --pids-limit 100 debian make
  tarn run --rm --mount type=bind,src=/srv,dst=/srv,readonly --cap-drop ALL debian ls /srv
  tarn run --rm --network host --read-only --tmpfs /tmp debian sh -c 'id; ls /'`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if opts.CreateOptions, err = flags.options(a, cmd, args); err != nil {
				return err
			}
			if err := attachTo(&opts, attach); err != nil {
				return usageError(cmd, err)
			}
			return a.run(cmd, opts)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	flags.add(cmd)
	listVarP(cmd.Flags(), &attach, "attach", "a", "be attached to `stream` only: stdin, stdout or stderr; again for more (default: all)")
	suggest(cmd, "attach", "stdin", "stdout", "stderr")
	cmd.Flags().BoolVarP(&opts.Detach, "detach", "d", false, "run it in the background, and print its ID")
	cmd.Flags().StringVar(&opts.DetachKeys, "detach-keys", "", "`keys` to leave a terminal with, which runs on (default: ctrl-p,ctrl-q)")
	cmd.Flags().BoolVar(&opts.SigProxy, "sig-proxy", true, "pass signals on to the command; without, SIGINT and SIGTERM end the container")
	return cmd
}

// attachTo leaves of the streams those that the user named, if any.
func attachTo(opts *engine.RunOptions, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if opts.Detach {
		return errors.New("--attach and --detach contradict each other")
	}
	streams := map[string]**os.File{"stdin": &opts.Stdin, "stdout": &opts.Stdout, "stderr": &opts.Stderr}
	for i, name := range names {
		names[i] = strings.ToLower(name)
		if streams[names[i]] == nil {
			return fmt.Errorf("--attach %s: use stdin, stdout or stderr", name)
		}
	}
	for name, f := range streams {
		if slices.Contains(names, name) {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		*f = null // until this program ends
	}
	return nil
}

func (a *app) run(cmd *cobra.Command, opts engine.RunOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	opts.Reserved = a.reserved
	if opts.Detach {
		opts.Created = func(id string) { fmt.Fprintln(cmd.OutOrStdout(), id) }
	}
	status, err := e.Run(cmd.Context(), opts)
	if err != nil && status == 0 && !errors.Is(err, engine.ErrDetached) {
		return &exitError{status: engine.ExitStatus(err), err: err}
	}
	return leave(status, err)
}
