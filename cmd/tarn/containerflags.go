package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
)

// containerFlags say what a container is to be: for "run" and "create".
type containerFlags struct {
	engine.CreateOptions
	entrypoint, pull string
	registry         registryFlags
}

// add adds the flags. They stand before the image's name: what follows it is the command.
func (f *containerFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Bool("help", false, "help for "+cmd.Name()) // without -h, which is Docker's for the host name
	f.addImage(cmd, flags)
	f.addIdentity(flags)
	f.addProcess(flags)
	f.addMounts(flags)
	f.addSecurity(flags)
	f.addNetwork(cmd, flags)
}

func (f *containerFlags) addImage(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.StringVar(&f.pull, "pull", "missing", "`when` to fetch the image from its registry: missing, always or never")
	suggest(cmd, "pull", string(engine.PullMissing), string(engine.PullAlways), string(engine.PullNever))
	f.registry.add(flags)
}

func (f *containerFlags) addIdentity(flags *pflag.FlagSet) {
	flags.StringVar(&f.Name, "name", "", "`name` of the container (default: one is made up)")
	flags.StringArrayVarP(&f.Labels, "label", "l", nil, "label: `KEY=value`, or KEY")
	flags.BoolVar(&f.Remove, "rm", false, "remove the container when it ends")
}

func (f *containerFlags) addProcess(flags *pflag.FlagSet) {
	flags.StringVarP(&f.User, "user", "u", "", "`user` to run as: name or ID, with \":group\" if not the user's own (default: the image's)")
	flags.StringVarP(&f.WorkDir, "workdir", "w", "", "working `directory`, made if it is missing (default: the image's)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "`program` to run instead of the image's entry point and command; \"\" for none")
	flags.StringArrayVarP(&f.Env, "env", "e", nil, "environment: `NAME=value`, or NAME for the value it has here")
	flags.StringArrayVar(&f.EnvFiles, "env-file", nil, "`file` with lines as --env takes them")
	flags.BoolVarP(&f.Interactive, "interactive", "i", false, "the command reads this command's input")
	flags.BoolVarP(&f.Terminal, "tty", "t", false, "the command has a terminal of its own")
}

func (f *containerFlags) addMounts(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&f.Volumes, "volume", "v", nil,
		"mount `[SOURCE:]DEST[:OPTIONS]`: a path of the host, or a volume by its name, or a new one")
	flags.StringArrayVar(&f.Tmpfs, "tmpfs", nil, "mount an empty file system in memory: `DEST[:OPTIONS]`")
	flags.BoolVar(&f.ReadOnly, "read-only", false, "the root file system cannot be written")
}

func (f *containerFlags) addSecurity(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.SecurityOpt, "security-opt", nil, "`option`: no-new-privileges, seccomp=unconfined or seccomp=FILE")
}

func (f *containerFlags) addNetwork(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.StringVarP(&f.Hostname, "hostname", "h", "", "`name` of the container's machine (default: the beginning of its ID)")
	f.addNetworks(cmd, flags)
}

// options completes what the flags say by the arguments IMAGE [COMMAND...].
func (f *containerFlags) options(a *app, cmd *cobra.Command, args []string) (engine.CreateOptions, error) {
	opts := f.CreateOptions
	opts.Image, opts.Command = args[0], args[1:]
	if cmd.Flags().Changed("entrypoint") {
		opts.Entrypoint = &f.entrypoint
	}
	var err error
	if opts.Pull, err = engine.ParsePullPolicy(f.pull); err != nil {
		return opts, err
	}
	shown := newProgress(os.Stderr, false, false)
	opts.PullOptions = engine.PullOptions{Registry: f.registry.options(a), Report: shown.report, Done: shown.close}
	return opts, nil
}
