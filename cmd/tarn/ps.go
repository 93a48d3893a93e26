package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// containerRow is a container as --format sees it.
type containerRow struct {
	ID, Image, Command, CreatedAt, RunningFor, Status, State, Names, Labels, Mounts, Networks, Ports, Size string

	label func(key string) string
}

// Label gives one label's value.
func (r containerRow) Label(key string) string { return r.label(key) }

func newPsCmd(a *app) *cobra.Command {
	var (
		list              listing
		all, latest, size bool
		last              int
		filters           []string
	)
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		GroupID: groupContainers,
		Short:   "List containers",
		Long: `List containers, the newest first: those that run, or all.

The size is what the container has written, and in parentheses that with its image.

Filters: id=PREFIX, name=REGEXP, status=created|running|paused|restarting|exited|damaged,
exited=STATUS, label=KEY[=VALUE], ancestor=IMAGE, volume=NAME|PATH, network=NAME|ID,
before=CONTAINER, since=CONTAINER, health=STATUS, restart-policy=POLICY,
should-start-on-boot=true|false.
Fields for --format: .ID .Image .Command .CreatedAt .RunningFor .Status .State .Names .Labels
.Label "KEY" .Mounts .Networks .Ports .Size`,
		Example: `  tarn ps
  tarn ps -a --size
  tarn ps -aq --filter status=exited            # for instance for 'tarn rm'
  tarn ps -l --format '{{.Names}}: {{.Status}}'
  tarn ps -a --filter ancestor=debian --format 'table {{.Names}}\t{{.Image}}'`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if latest {
				last = 1
			}
			filter, err := engine.ParseContainerFilter(filters, all || last > 0)
			if err != nil {
				return err
			}
			columns := []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"}
			if size {
				columns = append(columns, "Size")
			}
			template, err := list.template(columns...)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			containers, err := e.Containers(cmd.Context(), filter)
			if err != nil {
				return err
			}
			if last > 0 {
				containers = containers[:min(last, len(containers))]
			}
			rows, err := containerRows(cmd.Context(), e, containers, &list, size || list.uses("Size"))
			if err != nil {
				return err
			}
			return format.Execute(cmd.OutOrStdout(), template, containerRow{
				ID: "CONTAINER ID", Image: "IMAGE", Command: "COMMAND", CreatedAt: "CREATED AT", RunningFor: "CREATED",
				Status: "STATUS", State: "STATE", Names: "NAMES", Labels: "LABELS", Mounts: "MOUNTS", Networks: "NETWORKS", Ports: "PORTS",
				Size: "SIZE", label: labelTitle,
			}, rows)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	list.addFlags(flags, "containers")
	flags.BoolVarP(&all, "all", "a", false, "list those that do not run, too")
	flags.BoolVarP(&latest, "latest", "l", false, "list the newest only, whether it runs or not")
	flags.IntVarP(&last, "last", "n", 0, "list the newest `number` only, whether they run or not")
	flags.BoolVarP(&size, "size", "s", false, "print how much they have written")
	listVarP(flags, &filters, "filter", "f", "list only containers with `KEY=VALUE`; the same key again is an alternative")
	suggest(cmd, "filter", "id=", "name=", "status=created", "status=running", "status=paused", "status=restarting",
		"status=exited", "status=damaged", "exited=", "label=", "ancestor=", "volume=", "network=", "before=", "since=", "health=", "restart-policy=",
		"should-start-on-boot=true", "should-start-on-boot=false")
	return cmd
}

func containerRows(ctx context.Context, e *engine.Engine, containers []*engine.Container, list *listing, size bool) ([]containerRow, error) {
	rows := make([]containerRow, 0, len(containers))
	for _, c := range containers {
		image, err := e.ImageName(c)
		if err != nil {
			return nil, err
		}
		row := newContainerRow(c, list)
		row.Image = image
		if row.Ports, err = e.PortsText(c); err != nil {
			return nil, err
		}
		if size && c.Damaged == nil {
			own, virtual, err := e.ContainerSize(ctx, c)
			if err != nil {
				return nil, err
			}
			row.Size = format.Size(own) + " (virtual " + format.Size(virtual) + ")"
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func newContainerRow(c *engine.Container, list *listing) containerRow {
	settings := &c.Settings
	command := strings.Join(slices.Concat([]string{settings.Path}, settings.Args), " ")
	var mounts []string
	for _, m := range settings.Mounts {
		mounts = append(mounts, list.text(cmp.Or(m.Name, m.Source, m.Destination), 15))
	}
	labels := settings.Config.Labels
	row := containerRow{
		ID: c.ID, Command: strconv.Quote(list.text(command, 20)), CreatedAt: timestamp(c.Created),
		RunningFor: format.Ago(c.Created, time.Now()), Status: status(c), State: c.Status(), Names: c.Name,
		Labels: joinLabels(labels), Mounts: strings.Join(mounts, ","), Networks: engine.NetworksText(c),
		label: func(key string) string { return format.OneLine(labels[key]) },
	}
	if !list.noTrunc {
		row.ID = c.ID[:min(12, len(c.ID))]
	}
	return row
}

// labelTitle is a label's title in a table: as Docker's, the last part of its name.
func labelTitle(key string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(key[strings.LastIndexByte(key, '.')+1:])
}

// status puts a container's state in words.
func status(c *engine.Container) string {
	now, s := time.Now(), &c.State
	switch c.Status() {
	case engine.StatusRunning:
		up := "Up " + format.Duration(now.Sub(s.StartedAt))
		health, err := c.Health()
		switch {
		case err != nil || health == nil:
			return up
		case health.Status == engine.HealthStarting:
			return up + " (health: starting)"
		default:
			return up + " (" + health.Status + ")"
		}
	case engine.StatusPaused:
		return "Up " + format.Duration(now.Sub(s.StartedAt)) + " (Paused)"
	case engine.StatusRestarting:
		return strings.TrimSpace(fmt.Sprintf("Restarting (%d) %s", s.ExitCode, format.Ago(s.FinishedAt, now)))
	case engine.StatusExited:
		return strings.TrimSpace(fmt.Sprintf("Exited (%d) %s", s.ExitCode, format.Ago(s.FinishedAt, now)))
	case engine.StatusDamaged:
		return "Damaged"
	default:
		return "Created"
	}
}
