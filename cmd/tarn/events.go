package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newEventsCmd(a *app) *cobra.Command {
	var (
		since, until, text string
		filters            []string
	)
	cmd := &cobra.Command{
		Use:     "events [flags]",
		GroupID: groupContainers,
		Short:   "Print what happens, as it happens",
		Long: `Print what happens to containers, as it happens; with --since also what has happened. A
megabyte or two of it are kept, until the machine is started anew.

Filters: container=NAME|ID, event=ACTION, image=NAME, label=KEY[=VALUE], type=KIND.
Times are as 2026-01-31T12:00:00, 2026-01-31, seconds since 1970, or how long ago: 10m.`,
		Example: `  tarn events --filter event=die
  tarn events --since 1h --until 0s --format '{{.Action}} {{.Actor.Attributes.name}}'`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var opts engine.EventOptions
			var err error
			if opts.Since, err = parseMoment(since); err != nil {
				return err
			}
			if opts.Until, err = parseMoment(until); err != nil {
				return err
			}
			if opts.Filters, err = engine.ParseEventFilters(filters); err != nil {
				return err
			}
			template, err := format.Parse(text)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Events(cmd.Context(), opts, func(event engine.Event) error {
				if text != "" {
					return format.Object(cmd.OutOrStdout(), template, event)
				}
				return printEvent(cmd.OutOrStdout(), event)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "print also what has happened since `time`")
	flags.StringVar(&until, "until", "", "end at `time`")
	listVarP(flags, &filters, "filter", "f", "print only what `KEY=VALUE` selects; the same key again is an alternative")
	flags.StringVar(&text, "format", "", "print each by a Go `template`; 'json' for one line of JSON")
	return cmd
}

// printEvent prints as Docker does.
func printEvent(w io.Writer, event engine.Event) error {
	var attributes []string
	for _, name := range slices.Sorted(maps.Keys(event.Actor.Attributes)) {
		attributes = append(attributes, name+"="+event.Actor.Attributes[name])
	}
	_, err := fmt.Fprintf(w, "%s %s %s %s (%s)\n", time.Unix(0, event.TimeNano).Format(stampFormat), event.Type, event.Action,
		event.Actor.ID, format.OneLine(strings.Join(attributes, ", ")))
	return err
}
