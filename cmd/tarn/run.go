package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newRunCmd(a *app) *cobra.Command {
	opts := engine.RunOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	var (
		entrypoint, pull string
		reg              registryFlags
	)
	cmd := &cobra.Command{
		Use:     "run [flags] IMAGE [COMMAND [ARG...]]",
		GroupID: groupContainers,
		Short:   "Run a command in a new container",
		Long: `Run a command in a new container, and exit with the command's status.

Flags stand before the image's name: what follows it is the command. The container is
kept when it ends (see 'tarn ps -a'), unless --rm is given.

The network is "none" by default: the container has the loopback interface only. With
"host" it has all of the host's. There are no others yet.

The status is 125 when tarn itself failed, 126 when the command cannot be executed, 127
when it is not there, else the command's: 128 and the number of a signal that ended it.`,
		Example: `  tarn run --rm -it base                                  # a shell, removed when it ends
  tarn run --name work debian apt-get --version
  echo hello | tarn run --rm -i base cat
  tarn run --rm -v "$PWD:/src:ro" -w /src debian make
  tarn run --rm --network host --read-only --tmpfs /tmp debian sh -c 'id; ls /'`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Image, opts.Command = args[0], args[1:]
			if cmd.Flags().Changed("entrypoint") {
				opts.Entrypoint = &entrypoint
			}
			var err error
			if opts.Pull, err = engine.ParsePullPolicy(pull); err != nil {
				return err
			}
			shown := newProgress(os.Stderr, false, false)
			opts.PullOptions = engine.PullOptions{Registry: reg.options(a), Report: shown.report, Done: shown.close}
			return a.run(cmd, opts)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Bool("help", false, "help for run") // without -h, which is Docker's for the host name
	flags.StringVar(&opts.Name, "name", "", "`name` of the container (default: one is made up)")
	flags.StringVarP(&opts.Hostname, "hostname", "h", "", "`name` of the container's machine (default: the beginning of its ID)")
	flags.StringVarP(&opts.User, "user", "u", "", "`user` to run as: name or ID, with \":group\" if not the user's own (default: the image's)")
	flags.StringVarP(&opts.WorkDir, "workdir", "w", "", "working `directory`, made if it is missing (default: the image's)")
	flags.StringVar(&entrypoint, "entrypoint", "", "`program` to run instead of the image's entry point and command; \"\" for none")
	flags.StringArrayVarP(&opts.Env, "env", "e", nil, "environment: `NAME=value`, or NAME for the value it has here")
	flags.StringArrayVar(&opts.EnvFiles, "env-file", nil, "`file` with lines as --env takes them")
	flags.StringArrayVarP(&opts.Labels, "label", "l", nil, "label: `KEY=value`, or KEY")
	flags.StringArrayVarP(&opts.Volumes, "volume", "v", nil,
		"mount `[SOURCE:]DEST[:OPTIONS]`: a path of the host, or a volume by its name, or a new one")
	flags.StringArrayVar(&opts.Tmpfs, "tmpfs", nil, "mount an empty file system in memory: `DEST[:OPTIONS]`")
	flags.StringVar(&opts.Network, "network", engine.NetworkNone, "`network`: none or host")
	suggest(cmd, "network", engine.NetworkNone, engine.NetworkHost)
	flags.StringArrayVar(&opts.SecurityOpt, "security-opt", nil, "`option`: no-new-privileges, seccomp=unconfined or seccomp=FILE")
	flags.StringVar(&pull, "pull", "missing", "`when` to fetch the image from its registry: missing, always or never")
	suggest(cmd, "pull", string(engine.PullMissing), string(engine.PullAlways), string(engine.PullNever))
	reg.add(flags)
	flags.BoolVar(&opts.ReadOnly, "read-only", false, "the root file system cannot be written")
	flags.BoolVar(&opts.Remove, "rm", false, "remove the container when it ends")
	flags.BoolVarP(&opts.Interactive, "interactive", "i", false, "the command reads this command's input")
	flags.BoolVarP(&opts.Terminal, "tty", "t", false, "the command has a terminal of its own")
	flags.BoolVar(&opts.SigProxy, "sig-proxy", true, "pass signals on to the command; without, SIGINT and SIGTERM end the container")
	return cmd
}

func (a *app) run(cmd *cobra.Command, opts engine.RunOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	opts.Reserved = a.reserved
	status, err := e.Run(cmd.Context(), opts)
	switch {
	case err != nil && status == 0:
		return &exitError{status: engine.ExitStatus(err), err: err}
	case err != nil || status != 0:
		return &exitError{status: status, err: err}
	default:
		return nil
	}
}
