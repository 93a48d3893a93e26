package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newVolumeCmd(a *app) *cobra.Command {
	return withMembers(&cobra.Command{
		Use:     "volume COMMAND",
		GroupID: groupStore,
		Short:   "Make, list and remove volumes",
		Long: `Make, list and remove volumes: directories that outlive containers, and that several of
them can have. 'tarn run -v NAME:/PATH' makes a volume, too, where none has that name.

A volume with nothing in it gets what the image has at its place when a container has it
for the first time.`,
		Example: `  tarn volume create data
  tarn run --rm -v data:/var/lib/app debian ls -l /var/lib/app
  tarn volume ls --filter dangling=true
  tarn volume rm data`,
	}, newVolumeCreateCmd(a), newVolumeInspectCmd(a), newVolumeLsCmd(a), newVolumePruneCmd(a), newVolumeRmCmd(a))
}

func newVolumeCreateCmd(a *app) *cobra.Command {
	var opts engine.VolumeOptions
	cmd := &cobra.Command{
		Use:   "create [flags] [NAME]",
		Short: "Make a volume",
		Long: `Make a volume, and print its name. One that is there already stays as it is.

With --opt type=none --opt o=bind --opt device=DIRECTORY a directory of the host gets a name
as a volume.`,
		Example: `  tarn volume create --label tier=db data
  tarn volume create -o type=none -o o=bind -o device=/srv/www www`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.Name = args[0]
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			name, err := e.CreateVolume(cmd.Context(), opts)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Driver, "driver", "d", "local", "`name` of the driver: there is only local")
	listVar(flags, &opts.Labels, "label", "label: `KEY=value`, or KEY")
	listVarP(flags, &opts.Options, "opt", "o", "option of the driver: `KEY=value`")
	return cmd
}

func newVolumeInspectCmd(a *app) *cobra.Command {
	return newInspectOfCmd(a, engine.KindVolume, a.volumeNames, &cobra.Command{
		Use:     "inspect [flags] NAME...",
		Short:   "Describe volumes in full, as JSON",
		Example: `  tarn volume inspect -f '{{.Mountpoint}}' data`,
	})
}

// volumeRow is a volume as --format sees it.
type volumeRow struct {
	Name, Driver, Scope, Mountpoint, Labels, Links, CreatedAt string

	label func(key string) string
}

// Label gives one label's value.
func (r volumeRow) Label(key string) string { return r.label(key) }

func newVolumeLsCmd(a *app) *cobra.Command {
	list := listing{byName: true}
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long: `List volumes, by name.

Filters: name=PART, driver=local, label=KEY[=VALUE], label!=KEY[=VALUE], dangling=true|false
(whether no container has it).
Fields for --format: .Name .Driver .Scope .Mountpoint .Labels .Label "KEY" .Links .CreatedAt`,
		Example: `  tarn volume ls --format '{{.Name}}: {{.Links}}'`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := engine.ParseVolumeFilter(filters)
			if err != nil {
				return err
			}
			template, err := list.template("Driver", "Name")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			volumes, err := e.Volumes(cmd.Context(), filter)
			if err != nil {
				return err
			}
			rows := make([]volumeRow, 0, len(volumes))
			for _, v := range volumes {
				rows = append(rows, newVolumeRow(v))
			}
			return format.Execute(cmd.OutOrStdout(), template, volumeRow{
				"VOLUME NAME", "DRIVER", "SCOPE", "MOUNTPOINT", "LABELS", "LINKS", "CREATED AT", labelTitle,
			}, rows)
		},
	}
	flags := cmd.Flags()
	list.addFlags(flags, "volumes")
	listVarP(flags, &filters, "filter", "f", "list only volumes with `KEY=VALUE`")
	suggest(cmd, "filter", "name=", "driver=", "label=", "dangling=")
	return cmd
}

func newVolumeRow(v *engine.Volume) volumeRow {
	report := v.Report()
	return volumeRow{
		Name: v.Name, Driver: report.Driver, Scope: report.Scope, Mountpoint: report.Mountpoint, Labels: joinLabels(v.Labels),
		Links: strconv.Itoa(len(v.Users)), CreatedAt: timestamp(v.Created),
		label: func(key string) string { return format.OneLine(v.Labels[key]) },
	}
}

func newVolumeRmCmd(a *app) *cobra.Command {
	return newRmOfCmd(a, a.volumeNames, engine.ErrNoVolume, &cobra.Command{
		Use:     "rm [flags] NAME...",
		Short:   "Remove volumes",
		Long:    `Remove volumes with all in them. One that a container has is not removed.`,
		Example: `  tarn volume rm data`,
	}, func(ctx context.Context, e *engine.Engine, name string) error { return e.RemoveVolume(ctx, name) })
}
