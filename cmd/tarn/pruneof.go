package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// pruning is what a command removes of one kind of things.
type pruning struct {
	title  string // as "Deleted Volumes:"
	sized  bool   // they take room on the disk
	list   func(ctx context.Context, e *engine.Engine) ([]engine.Lost, error)
	remove func(ctx context.Context, e *engine.Engine) (names []string, freed int64, err error)
}

// newPruneOfCmd makes a command that removes things of one kind that nobody uses: those that choose makes of --filter.
func newPruneOfCmd(a *app, cmd *cobra.Command, choose func(filters []string) (*pruning, error)) *cobra.Command {
	var (
		force   bool
		filters []string
	)
	cmd.Use, cmd.Args, cmd.ValidArgsFunction = "prune [flags]", arguments(0, 0), cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := choose(filters)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if !force {
			if err := p.show(cmd, e); err != nil {
				return err
			}
			if yes, err := confirm(cmd.InOrStdin(), out); err != nil || !yes {
				return err
			}
		}
		freed, err := p.carryOut(cmd, e)
		if err == nil && p.sized {
			fmt.Fprintf(out, "Total reclaimed space: %s\n", format.Size(freed))
		}
		return err
	}
	flags := cmd.Flags()
	flags.BoolVarP(&force, "force", "f", false, "do not ask")
	listVar(flags, &filters, "filter", "remove only what `KEY=VALUE` selects")
	return cmd
}

// show lists what would go.
func (p *pruning) show(cmd *cobra.Command, e *engine.Engine) error {
	losses, err := p.list(cmd.Context(), e)
	if err == nil && p.sized {
		showPlan(cmd.OutOrStdout(), &engine.Pruned{Losses: losses})
		return nil
	}
	for _, l := range losses {
		fmt.Fprintf(cmd.OutOrStdout(), "  %s\n", l)
	}
	return err
}

// carryOut removes it, says what went, and gives the bytes that the disk has back.
func (p *pruning) carryOut(cmd *cobra.Command, e *engine.Engine) (int64, error) {
	names, freed, err := p.remove(cmd.Context(), e)
	out := cmd.OutOrStdout()
	if len(names) > 0 {
		fmt.Fprintln(out, p.title)
		for _, name := range names {
			fmt.Fprintln(out, name)
		}
		if p.sized {
			fmt.Fprintln(out)
		}
	}
	return freed, err
}

func newVolumePruneCmd(a *app) *cobra.Command {
	var all bool
	cmd := newPruneOfCmd(a, &cobra.Command{
		Short: "Remove volumes that no container has",
		Long: `Remove volumes that no container has: those that have no name of their own, or with --all
all of them. What will go is shown first.

Filters: label=KEY[=VALUE], label!=KEY[=VALUE], name=PART, all=true.`,
		Example: `  tarn volume prune -f
  tarn volume prune --all --filter label=scratch`,
	}, func(filters []string) (*pruning, error) {
		filter, err := engine.ParseVolumeFilter(filters)
		filter.All = filter.All || all
		return pruneVolumes(filter), err
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that have a name")
	return cmd
}

func pruneVolumes(filter engine.VolumeFilter) *pruning {
	return &pruning{
		title: "Deleted Volumes:", sized: true,
		list: func(ctx context.Context, e *engine.Engine) ([]engine.Lost, error) {
			return e.PlanPruneVolumes(ctx, filter)
		},
		remove: func(ctx context.Context, e *engine.Engine) ([]string, int64, error) {
			return e.PruneVolumes(ctx, filter)
		},
	}
}

func newNetworkPruneCmd(a *app) *cobra.Command {
	return newPruneOfCmd(a, &cobra.Command{
		Short: "Remove networks that no container has",
		Long: `Remove networks that no container has, whether it runs or not. What will go is shown first.

Filters: until=TIME (only what is older: 24h, or 2026-01-31T12:00), label=KEY[=VALUE],
label!=KEY[=VALUE].`,
		Example: `  tarn network prune -f`,
	}, func(filters []string) (*pruning, error) {
		filter, err := engine.ParseNetworkFilter(filters, time.Now())
		return &pruning{
			title: "Deleted Networks:",
			list: func(ctx context.Context, e *engine.Engine) (losses []engine.Lost, err error) {
				filter := filter
				filter.Dangling = new(true)
				unused, err := e.Networks(ctx, filter)
				for _, n := range unused {
					if engine.Prunable(n) {
						losses = append(losses, engine.Lost{Kind: "network", ID: n.Name})
					}
				}
				return losses, err
			},
			remove: func(ctx context.Context, e *engine.Engine) ([]string, int64, error) {
				names, err := e.PruneNetworks(ctx, filter)
				return names, 0, err
			},
		}, err
	})
}

func newContainerPruneCmd(a *app) *cobra.Command {
	return newPruneOfCmd(a, &cobra.Command{
		Short: "Remove containers that do not run",
		Long: `Remove containers that do not run, with all that they have written; volumes stay. What will
go is shown first.

Filters: until=TIME (only what is older: 24h, or 2026-01-31T12:00), label=KEY[=VALUE],
label!=KEY[=VALUE].`,
		Example: `  tarn container prune --filter until=24h`,
	}, func(filters []string) (*pruning, error) {
		filter, err := engine.ParsePruneFilter(filters, true, time.Now())
		return &pruning{
			title: "Deleted Containers:", sized: true,
			list: func(ctx context.Context, e *engine.Engine) ([]engine.Lost, error) {
				return e.PlanPruneContainers(ctx, filter)
			},
			remove: func(ctx context.Context, e *engine.Engine) ([]string, int64, error) {
				return e.PruneContainers(ctx, filter)
			},
		}, err
	})
}
