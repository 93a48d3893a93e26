package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
)

// containerFlags say what a container is to be: for "run" and "create".
type containerFlags struct {
	engine.CreateOptions
	entrypoint, pull, platform string
	registry                   registryFlags
	quiet                      bool

	restart, logDriver string
	logOptions         []string
	stopSeconds        int
	swappiness         int64
}

// add adds the flags. They stand before the image's name: what follows it is the command.
func (f *containerFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Bool("help", false, "help for "+cmd.Name()) // without -h, which is Docker's for the host name
	f.addImage(cmd, flags)
	f.addIdentity(flags)
	f.addProcess(flags)
	f.addLife(cmd, flags)
	f.addMounts(flags)
	f.addSecurity(cmd, flags)
	f.addSharing(cmd, flags)
	f.addResources(flags)
	f.addDevices(flags)
	f.addNetwork(cmd, flags)
}

func (f *containerFlags) addImage(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.StringVar(&f.pull, "pull", "missing", "`when` to fetch the image from its registry: missing, always or never")
	suggest(cmd, "pull", string(engine.PullMissing), string(engine.PullAlways), string(engine.PullNever))
	flags.StringVar(&f.platform, "platform", "", "`os/architecture[/variant]` that the image is to be of (default: this machine's)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "do not show how the image is fetched")
	f.registry.add(flags)
}

func (f *containerFlags) addIdentity(flags *pflag.FlagSet) {
	flags.StringVar(&f.Name, "name", "", "`name` of the container (default: one is made up)")
	listVarP(flags, &f.Labels, "label", "l", "label: `KEY=value`, or KEY")
	listVar(flags, &f.LabelFiles, "label-file", "`file` with lines as --label takes them")
	flags.StringVar(&f.CIDFile, "cidfile", "", "write the ID to `file`, which must not be there yet")
	flags.BoolVar(&f.Remove, "rm", false, "remove the container when it ends")
}

func (f *containerFlags) addProcess(flags *pflag.FlagSet) {
	flags.StringVarP(&f.User, "user", "u", "", "`user` to run as: name or ID, with \":group\" if not the user's own (default: the image's)")
	flags.StringVarP(&f.WorkDir, "workdir", "w", "", "working `directory`, made if it is missing (default: the image's)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "`program` to run instead of the image's entry point and command; \"\" for none")
	listVarP(flags, &f.Env, "env", "e", "environment: `NAME=value`, or NAME for the value it has here")
	listVar(flags, &f.EnvFiles, "env-file", "`file` with lines as --env takes them")
	flags.BoolVarP(&f.Interactive, "interactive", "i", false, "the command reads this command's input")
	flags.BoolVarP(&f.Terminal, "tty", "t", false, "the command has a terminal of its own")
}

// addLife is about how the container lives and ends.
func (f *containerFlags) addLife(cmd *cobra.Command, flags *pflag.FlagSet) {
	flags.BoolVar(&f.Init, "init", false, "a small program is the first process: it passes signals on and waits for orphans")
	flags.StringVar(&f.restart, "restart", engine.RestartNo, "`policy` to start it again: no, on-failure[:TIMES], always or unless-stopped")
	suggest(cmd, "restart", engine.RestartNo, engine.RestartOnFailure, engine.RestartAlways, engine.RestartUnlessStopped)
	flags.StringVar(&f.StopSignal, "stop-signal", "", "`signal` that asks it to end (default: the image's, or SIGTERM)")
	flags.IntVar(&f.stopSeconds, "stop-timeout", 10, "`seconds` to end in, when it is asked to, before it is killed; -1 for any time")
	flags.StringVar(&f.logDriver, "log-driver", engine.LogLocal, "`kind` of its log: local (fast), json-file (Docker's format) or none")
	suggest(cmd, "log-driver", engine.LogLocal, engine.LogJSON, engine.LogNone)
	listVar(flags, &f.logOptions, "log-opt", "option of the log: max-size=`SIZE` for each file, max-file=NUMBER of files")
	flags.StringVar(&f.Health.Command, "health-cmd", "", "`command` for the shell that says whether it is healthy (default: the image's)")
	flags.DurationVar(&f.Health.Interval, "health-interval", 0, "`time` between two of these (default 30s)")
	flags.DurationVar(&f.Health.Timeout, "health-timeout", 0, "`time` that one may take (default 30s)")
	flags.IntVar(&f.Health.Retries, "health-retries", 0, "`number` of failures that make it unhealthy (default 3)")
	flags.DurationVar(&f.Health.StartPeriod, "health-start-period", 0, "`time` in which failures do not count")
	flags.DurationVar(&f.Health.StartInterval, "health-start-interval", 0, "`time` between two commands in that (default 5s)")
	flags.BoolVar(&f.Health.Off, "no-healthcheck", false, "do not check its health, even if the image says how")
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
	if opts.Restart, err = engine.ParseRestartPolicy(f.restart); err != nil {
		return opts, err
	}
	if opts.Log, err = engine.ParseLogConfig(f.logDriver, f.logOptions); err != nil {
		return opts, err
	}
	if cmd.Flags().Changed("stop-timeout") {
		timeout := time.Duration(f.stopSeconds) * time.Second
		opts.StopTimeout = &timeout
	}
	if f.swappiness != -1 {
		opts.Resources.MemorySwappiness = &f.swappiness
	}
	if opts.Platform, err = parsePlatform(f.platform); err != nil {
		return opts, err
	}
	shown := newProgress(os.Stderr, f.quiet, false)
	opts.PullOptions = engine.PullOptions{Registry: f.registry.options(a), Platform: opts.Platform, Report: shown.report, Done: shown.close}
	return opts, nil
}
