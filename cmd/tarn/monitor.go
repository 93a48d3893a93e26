package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/monitor"
)

// monitorArgs tells whether the program is called by tarn itself, to stay with a container, and gives the
// arguments of that. Nobody else is to call it so, and no help mentions it.
func monitorArgs(args []string) ([]string, bool) {
	if len(args) > 2 && args[1] == engine.MonitorCommand {
		return args[2:], true
	}
	return nil, false
}

// runMonitor does something for a container in the background.
func runMonitor(ctx context.Context, args []string) int {
	switch args[0] {
	case engine.MonitorStart, engine.MonitorExec, engine.MonitorFinish, engine.MonitorHealth:
	default:
		return monitor.Main(ctx, args)
	}
	if err := monitorVerb(ctx, args[0], args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tarn monitor:", oneLine(err))
		return 1
	}
	return 0
}

func monitorVerb(ctx context.Context, verb string, args []string) error {
	const places = 3 // root, run and driver
	if len(args) <= places {
		return errors.New("too few arguments")
	}
	if verb == engine.MonitorExec || verb == engine.MonitorHealth {
		if err := engine.SealExecutable(); err != nil {
			return err
		}
	}
	e, err := engine.Open(engine.Options{Root: args[0], Run: args[1], Driver: args[2]})
	if err != nil {
		return err
	}
	args = args[places:]
	switch verb {
	case engine.MonitorFinish:
		return e.Finish(ctx, args[0])
	case engine.MonitorHealth:
		return e.CheckHealth(ctx, args[0])
	}
	var text string
	if verb == engine.MonitorExec {
		text, args = args[len(args)-1], args[:len(args)-1]
	}
	opts, err := engine.ParseBackground(args)
	switch {
	case err != nil:
		return err
	case verb == engine.MonitorExec:
		return e.ExecInBackground(ctx, opts, text)
	default:
		return e.Background(ctx, opts)
	}
}
