// Command tarn runs and makes containers' root file systems with nothing unpacked.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
	"github.com/tarnfs/tarn/internal/rootless"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/ociruntime"
)

// version is set by the build: -ldflags '-X main.version=v1.2.3'.
var version string

func main() {
	os.Exit(run())
}

func run() int {
	version := cmp.Or(version, "dev")
	if args, ok := runtimeArgs(os.Args); ok {
		return ociruntime.Main(context.Background(), version, args)
	}
	if len(os.Args) == 2 && os.Args[1] == rootless.PauseArg {
		rootless.Pause()
		return 0
	}
	if args, ok := monitorArgs(os.Args); ok {
		return runMonitor(context.Background(), args)
	}
	if status, done := withoutRoot(os.Args[1:]); done {
		return status
	}
	a := &app{version: version}
	if isRun(os.Args[1:]) {
		sys.GrowStack()
		a.reserved = engine.Reserve()
	}
	ctx := untilSignal()
	cmd, err := newRootCmd(a, os.Args[1:]).ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	status := exitStatus(cmd, err)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", cmd.Name(), context.Cause(ctx)) // which signal it was
	}
	complain(os.Stderr, err)
	return status
}

// untilSignal gives a context that ends with the first signal that asks the command to end and clean up; a second one ends
// the program. It does not wait until they are caught, which is a third of a millisecond ([signal.NotifyContext] does).
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		got := <-signals
		signal.Stop(signals)
		cancel(fmt.Errorf("%s signal received", got))
	}()
	return ctx
}

// exitError is an error that says which status to exit with.
type exitError struct {
	status int
	err    error // nil if there is nothing to print
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitStatus gives 125 when "run" or "create" fails before there is a container's status to give, as Docker
// does, so that the two can be told apart; for other commands 1.
func exitStatus(cmd *cobra.Command, err error) int {
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.status
	}
	if cmd != nil && slices.Contains([]string{"tarn run", "tarn create", "tarn container run", "tarn container create"}, cmd.CommandPath()) {
		return 125
	}
	return 1
}

// oneLine puts joined errors on one line. They may quote what an image says.
func oneLine(err error) string {
	return format.Printable(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; "))
}
