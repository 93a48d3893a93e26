// Command bench compares tarn with the tools that people use today, on the machine it runs on, and
// writes what it measured, beside the bars it wants to reach, to bench/RESULTS.md.
//
// What is compared runs in the same minutes, interleaved, and medians are compared: a ratio within
// one run means something on any machine. It needs root, and is started with "make bench".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
)

// ErrBarMissed is returned when everything was measured and something was slower than it should be.
var ErrBarMissed = errors.New("some figures miss their bar")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if child, ok := children()[args[0]]; ok {
			return child(args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "measure only the figures whose name matches the `regexp`")
	runs := flags.Int("runs", 0, "measure everything `n` times instead of each figure's own number of times")
	out := flags.String("o", "bench/RESULTS.md", "write the results to `file`")
	tarn := flags.String("tarn", "bin/tarn", "the tarn `binary` to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if os.Getenv(privateEnv) == "" {
		return runPrivately(ctx, args)
	}
	lab, err := newLab(ctx, *tarn, *runs)
	if err != nil {
		return err
	}
	rows, err := measure(ctx, lab, wanted)
	if err := errors.Join(err, lab.close()); err != nil {
		return err
	}
	if err := writeResults(ctx, *out, lab, rows); err != nil {
		return err
	}
	if slices.ContainsFunc(rows, func(r Row) bool { return !r.Met }) {
		return fmt.Errorf("%w: see %s", ErrBarMissed, *out)
	}
	return nil
}

// figures is what there is to measure, in the order of the table.
func figures() []Figure {
	return []Figure{
		{"index", indexFigure},
		{"import", importFigure},
		{"run", runFigure},
		{"network", networkFigure},
		{"runtime", runtimeFigure},
		{"life", lifeFigure},
		{"layers", layersFigure},
		{"read", readFigure},
		{"dedup", dedupFigure},
		{"roots", rootsFigure},
		{"registry", registryFigure},
	}
}

// children are the parts that run in a process of their own, so that their time and memory are
// theirs alone. They are called as: bench NAME ARGUMENTS.
func children() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"child-index": indexChild,
		"child-grow":  growChild,
		"child-read":  readChild,
	}
}

func measure(ctx context.Context, lab *Lab, wanted *regexp.Regexp) ([]Row, error) {
	var rows []Row
	for _, f := range figures() {
		if !wanted.MatchString(f.Name) {
			continue
		}
		fmt.Printf("== %s\n", f.Name)
		got, err := f.Measure(ctx, lab)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		rows = append(rows, got...)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("no figure matches %q", wanted)
	}
	return rows, nil
}
