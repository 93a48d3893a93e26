package main

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newLogsCmd(a *app) *cobra.Command {
	var (
		follow, stamps     bool
		since, until, tail string
	)
	cmd := &cobra.Command{
		Use:     "logs [flags] CONTAINER",
		GroupID: groupContainers,
		Short:   "Print what a container has written",
		Long: `Print what a container has written to its output and its errors, to this command's.

A container that was run in the foreground with --rm has no log. Times are as
2026-01-31T12:00:00, 2026-01-31, seconds since 1970, or how long ago: 10m.`,
		Example: `  tarn logs web
  tarn logs -f --tail 20 web
  tarn logs --since 10m -t web`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := engine.LogOptions{Follow: follow, Tail: -1}
			var err error
			if opts.Since, err = parseMoment(since); err != nil {
				return err
			}
			if opts.Until, err = parseMoment(until); err != nil {
				return err
			}
			if tail != "all" {
				if opts.Tail, err = strconv.Atoi(tail); err != nil || opts.Tail < 0 {
					return usageError(cmd, fmt.Errorf("--tail %q: use a number, or all", tail))
				}
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			p := &logPrinter{follow: follow, stamps: stamps}
			p.out[0], p.out[1] = bufio.NewWriter(cmd.OutOrStdout()), bufio.NewWriter(cmd.ErrOrStderr())
			err = e.Logs(cmd.Context(), args[0], opts, p.print)
			return errors.Join(err, p.out[0].Flush(), p.out[1].Flush())
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "wait for more, until the container ends or --until has come")
	flags.StringVar(&since, "since", "", "print only what is not older than `time`")
	flags.StringVar(&until, "until", "", "print only what is not newer than `time`")
	flags.StringVarP(&tail, "tail", "n", "all", "print only so many lines at the end: a `number`, or all")
	flags.BoolVarP(&stamps, "timestamps", "t", false, "print before each line when it was written")
	return cmd
}

// logPrinter prints lines, many at once if nobody waits for each.
type logPrinter struct {
	out            [2]*bufio.Writer // for output and errors
	last           int              // which of them came last
	follow, stamps bool
}

func (p *logPrinter) print(line *engine.LogLine) error {
	stream := int(line.Stream - 1)
	if stream != p.last { // both may be one terminal
		if err := p.out[p.last].Flush(); err != nil {
			return err
		}
		p.last = stream
	}
	out := p.out[stream]
	if p.stamps && !line.Continues {
		_, _ = out.WriteString(line.Time.UTC().Format(stampFormat) + " ") // its error stays, and comes out of Flush
	}
	_, err := out.Write(line.Text)
	if err == nil && p.follow {
		err = out.Flush()
	}
	return err
}

// stampFormat is Docker's: times in a column have one width.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// parseMoment reads a point in time; "" is the zero one. A number without a unit is seconds since 1970.
func parseMoment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && text != "0" {
		return time.Now().Add(-ago), nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(seconds*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: time %q: use 10m, 2026-01-31T12:00:00, or seconds since 1970", engine.ErrOption, text)
}
