package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
	"github.com/tarnfs/tarn/internal/sys"
)

func newPruneCmd(a *app) *cobra.Command {
	var (
		all, force, dryRun, volumes bool
		filters                     []string
	)
	cmd := &cobra.Command{
		Use:     "prune [flags]",
		GroupID: groupStore,
		Short:   "Remove what nobody uses",
		Long: `Remove images without a name that no container uses, and what nothing refers to: what is
left of commands that were killed, of interrupted pulls, and of layers whose images are
gone. With --all also images that have a name, if no container uses them. What will go is
shown first.

Of a layer from which others borrow, what they borrow stays. With --volumes also volumes go
that have no name of their own and no container (see 'tarn volume prune').

Filters: until=TIME (only what is older: 24h, or 2026-01-31T12:00), label=KEY[=VALUE],
label!=KEY[=VALUE].`,
		Example: `  tarn prune
  tarn prune --all --filter until=240h
  tarn prune --dry-run`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := engine.ParsePruneFilter(filters, all, time.Now())
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if volumes && !filter.Until.IsZero() {
				return fmt.Errorf("%w: volumes have no filter until", engine.ErrOption)
			}
			out := cmd.OutOrStdout()
			if !force || dryRun {
				if err := showAll(cmd, e, filter, volumes); err != nil || dryRun {
					return err
				}
				if yes, err := confirm(cmd.InOrStdin(), out); err != nil || !yes {
					return err
				}
			}
			pruned, err := pruneStore(cmd, e, filter)
			if err != nil {
				return err
			}
			freed := pruned.Bytes()
			if volumes {
				more, err := pruneVolumes(volumeFilter(filter)).carryOut(cmd, e)
				if err != nil {
					return err
				}
				freed += more
			}
			fmt.Fprintf(out, "Total reclaimed space: %s\n", format.Size(freed))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&all, "all", "a", false, "remove all images that no container uses, not only those without a name")
	flags.BoolVarP(&force, "force", "f", false, "do not ask")
	flags.BoolVar(&volumes, "volumes", false, "remove volumes without a name of their own that no container has")
	flags.BoolVar(&dryRun, "dry-run", false, "only show what would go")
	listVar(flags, &filters, "filter", "remove only what `KEY=VALUE` selects")
	return cmd
}

// volumeFilter selects volumes as the filter selects images.
func volumeFilter(f engine.PruneFilter) engine.VolumeFilter {
	return engine.VolumeFilter{Labels: f.Labels, Unlabels: f.Unlabels}
}

// showAll lists all that will go.
func showAll(cmd *cobra.Command, e *engine.Engine, filter engine.PruneFilter, volumes bool) error {
	plan, err := e.PlanPrune(cmd.Context(), filter)
	if err == nil && volumes {
		var more []engine.Lost
		more, err = e.PlanPruneVolumes(cmd.Context(), volumeFilter(filter))
		plan.Losses = append(plan.Losses, more...)
	}
	if err != nil {
		return err
	}
	showPlan(cmd.OutOrStdout(), plan)
	return nil
}

// pruneStore shows on a terminal how much of the room the disk has back.
func pruneStore(cmd *cobra.Command, e *engine.Engine, filter engine.PruneFilter) (*engine.Pruned, error) {
	_, _, err := sys.TerminalSize(os.Stderr)
	p := newProgress(os.Stderr, err != nil, false)
	p.label, p.completed = "Reclaiming", "Done"
	defer p.close()
	return e.Prune(cmd.Context(), filter, engine.PruneReport{
		Removed: func(pruned *engine.Pruned) { showRemoved(cmd.OutOrStdout(), pruned) },
		Freed:   p.report,
	})
}

// showPlan lists what will go, and what that gives.
func showPlan(out io.Writer, plan *engine.Pruned) {
	if len(plan.Losses) > 0 {
		fmt.Fprintln(out, "This will go:")
	}
	for _, name := range plan.Untagged {
		fmt.Fprintln(out, "  name "+name)
	}
	for _, id := range plan.Images {
		fmt.Fprintln(out, "  image "+id.Short())
	}
	for _, loss := range plan.Losses {
		note := ""
		if loss.Lent {
			note = ", without what others borrow"
		}
		fmt.Fprintf(out, "  %s (%s%s)\n", loss, format.Size(loss.Bytes), note)
	}
	fmt.Fprintf(out, "Total space to reclaim: %s\n", format.Size(plan.Bytes()))
}

// showRemoved says what went, as Docker does, while the disk is still at work.
func showRemoved(out io.Writer, pruned *engine.Pruned) {
	if len(pruned.Images) > 0 {
		fmt.Fprintln(out, "Deleted Images:")
		for _, name := range pruned.Untagged {
			fmt.Fprintln(out, "untagged: "+name)
		}
		for _, id := range pruned.Images {
			fmt.Fprintln(out, "deleted: "+id)
		}
		fmt.Fprintln(out)
	}
}

// confirm asks. No answer is a no.
func confirm(in io.Reader, out io.Writer) (bool, error) {
	fmt.Fprint(out, "\nAre you sure you want to continue? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(out)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	default:
		return false, nil
	}
}
