package ociruntime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// Name is what the program is called whose only work this is; see [Main].
const Name = "tarn-runtime"

// errUsage is wrapped by errors about the command line.
var errUsage = errors.New("wrong use")

// runtime is what all commands share: the global options.
type runtime struct {
	version string
	root    string // where containers are kept
	log     logger
	debug   bool
	systemd bool     // it makes the cgroups
	args    []string // the whole command line
}

// command is one verb of the command line. It gets what follows its name; the status is what the
// program exits with, if there is no error.
type command struct {
	name, args, about string
	run               func(ctx context.Context, r *runtime, args []string) (status int, err error)
}

func commands() []command {
	return []command{
		{"create", "[flags] ID", "make a container from a bundle; its process waits for start", create},
		{"start", "ID", "let a created container's process run", start},
		{"run", "[flags] ID", "create and start a container, and wait for its end", run},
		{"state", "ID", "print a container's state", state},
		{"list", "[flags]", "list containers", list},
		{"exec", "[flags] ID COMMAND [ARG...]", "run a command in a running container", execute},
		{"kill", "[flags] ID [SIGNAL]", "send a signal (TERM) to a container's process", kill},
		{"pause", "ID", "stop all processes of a container", pause},
		{"resume", "ID", "let them go on", resume},
		{"ps", "[flags] ID [PS-OPTION...]", "list the processes of a container", ps},
		{"events", "[flags] ID", "print what a container uses", events},
		{"update", "[flags] ID", "change a container's limits", update},
		{"features", "", "print what this runtime can do", features},
		{"delete", "[flags] ID", "remove a container that has ended", remove},
		{"spec", "[flags]", "write a config.json to begin with", writeSpec},
	}
}

// Main runs the command line args (without the program's name), and gives the status to exit with.
func Main(ctx context.Context, version string, args []string) int {
	r := &runtime{version: version, args: args}
	status, err := r.main(ctx, args)
	if err != nil {
		r.log.fail(explain(err))
		return max(status, 1)
	}
	return status
}

func (r *runtime) main(ctx context.Context, args []string) (int, error) {
	var showVersion bool
	var format, rootless, criu string
	flags := newFlags(Name)
	flags.StringVar(&r.root, "root", defaultRoot(), "`directory` of the containers' states")
	flags.StringVar(&r.log.path, "log", "", "write errors to `file` as well")
	flags.StringVar(&format, "log-format", "text", "`format` of the log: text or json")
	flags.BoolVar(&r.debug, "debug", false, "accepted for runc's sake: there is nothing more to log")
	flags.BoolVar(&r.systemd, "systemd-cgroup", false, "have systemd make the cgroups: a cgroupsPath is slice:prefix:name")
	flags.StringVar(&rootless, "rootless", "auto", "accepted for runc's sake: true, false or auto")
	flags.StringVar(&criu, "criu", "", "accepted for runc's sake: there is no checkpoint")
	flags.BoolVar(&showVersion, "version", false, "print the version")
	flags.BoolVar(&showVersion, "v", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return r.usage(flags, err)
	}
	if err := r.log.setFormat(format); err != nil {
		return 1, err
	}
	if showVersion {
		fmt.Printf("%s version %s\nspec: %s\n", Name, r.version, specs.Version)
		return 0, nil
	}
	var err error
	if r.root, err = filepath.Abs(r.root); err != nil {
		return 1, err
	}
	return r.dispatch(ctx, flags)
}

func (r *runtime) dispatch(ctx context.Context, flags *flag.FlagSet) (int, error) {
	name := flags.Arg(0)
	if name == "" || name == "help" {
		r.help(os.Stdout, flags)
		return 0, nil
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if name == "checkpoint" || name == "restore" {
		return 1, fmt.Errorf("%s: not supported: a container's processes cannot be saved", name)
	}
	if i < 0 {
		return 1, fmt.Errorf("unknown command %q (see '%s --help')", name, Name)
	}
	status, err := all[i].run(ctx, r, flags.Args()[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0, nil
	case errors.Is(err, errUsage):
		err = fmt.Errorf("%w: use '%s %s %s'", err, Name, name, all[i].args)
	}
	return status, err
}

func (r *runtime) usage(flags *flag.FlagSet, err error) (int, error) {
	if errors.Is(err, flag.ErrHelp) {
		r.help(os.Stdout, flags)
		return 0, nil
	}
	return 1, fmt.Errorf("%w (see '%s --help')", err, Name)
}

func (r *runtime) help(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(w, "An OCI runtime with runc's command line.\n\nUsage: %s [flags] COMMAND\n\nCommands:\n", Name)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-32s %s\n", c.name+" "+c.args, c.about)
	}
	fmt.Fprintln(w, "\nFlags:")
	printFlags(w, flags)
}

func printFlags(w io.Writer, flags *flag.FlagSet) {
	flags.VisitAll(func(f *flag.Flag) {
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		value, about := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-32s %s\n", dashes+f.Name+" "+value, about)
	})
}

// newFlags gives a set of flags that reports errors and prints nothing.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// parse parses a command's flags and checks how many arguments are left; most is -1 for any number.
func parse(flags *flag.FlagSet, args []string, least, most int) ([]string, error) {
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Printf("Flags of %s:\n", flags.Name())
		printFlags(os.Stdout, flags)
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if n := flags.NArg(); n < least || most >= 0 && n > most {
		return nil, fmt.Errorf("%w: %d arguments", errUsage, n)
	}
	return flags.Args(), nil
}

// defaultRoot is where containers are kept unless --root says otherwise: for a user who is not root, or
// is that in a user namespace alone, where such a user may write.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && (os.Geteuid() != 0 || sys.InUserNamespace()) {
		return filepath.Join(dir, "tarn", "runtime")
	}
	return "/run/tarn/runtime"
}

// oneLine puts joined errors on one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
