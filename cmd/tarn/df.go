package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// usageRow is a kind of thing as --format sees it.
type usageRow struct {
	Type, TotalCount, Active, Size, Reclaimable string
}

// verboseRows are the lists of "df -v", as --format sees them.
type verboseRows struct {
	Images          []imageUsageRow
	Containers      []containerUsageRow
	Volumes         []volumeUsageRow
	CompressedForms []formRow
}

type imageUsageRow struct {
	Image, ID, CreatedSince, Size, OnDisk, Shared, Unique, Containers, SharedWith string
}

type containerUsageRow struct {
	ID, Image, Size, Status, Names string
}

type volumeUsageRow struct {
	Name, Links, Size string
}

// formRow is a compressed form.
type formRow struct {
	Digest, Layer, Size, Kept, Why, Images string
}

func newDfCmd(a *app) *cobra.Command {
	var (
		list    listing
		verbose bool
	)
	cmd := &cobra.Command{
		Use:     "df [flags]",
		GroupID: groupStore,
		Short:   "Show what takes room on the disk",
		Long: `Show what takes room on the disk, and what of it could be had back. Sizes are bytes on the
disk; together they are what 'du' says of the store.

Images are layers' tars and indexes, and what is left of removed layers because others
borrow it. Compressed forms are what manifests name: they are kept as they came, so that a
push gives the same digests, unless they can be made again from the tar (see 'tarn
compact').

With -v each image, container, volume and compressed form is listed. SIZE of an image is
what it seems to have, ON DISK what it needs of the disk; of that, SHARED is needed by other
images, too, and UNIQUE goes with it.

Fields for --format: .Type .TotalCount .Active .Size .Reclaimable
With -v it is for all at once: .Images .Containers .Volumes .CompressedForms`,
		Example: `  tarn df
  tarn df -v
  tarn df --format '{{.Type}} {{.Size}}'
  tarn df -v --format '{{range .Images}}{{.Image}} {{.OnDisk}}{{println}}{{end}}'`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if verbose {
				return showVerboseUsage(cmd, e, &list)
			}
			return showUsage(cmd, e, &list)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&verbose, "verbose", "v", false, "list images, containers, volumes and compressed forms")
	flags.BoolVar(&list.noTrunc, "no-trunc", false, "shorten nothing")
	flags.StringVar(&list.format, "format", "", "print each by a Go `template`; 'table TEMPLATE' for columns with titles, 'json' for all")
	return cmd
}

func showUsage(cmd *cobra.Command, e *engine.Engine, list *listing) error {
	template, err := list.template("Type", "TotalCount", "Active", "Size", "Reclaimable")
	if err != nil {
		return err
	}
	usage, err := e.DiskUsage(cmd.Context())
	if err != nil {
		return err
	}
	rows := make([]usageRow, 0, len(usage))
	for _, u := range usage {
		row := usageRow{u.Type, strconv.Itoa(u.Total), strconv.Itoa(u.Active), format.Size(u.Size), format.Size(u.Reclaimable)}
		if u.Size > 0 {
			row.Reclaimable += fmt.Sprintf(" (%d%%)", u.Reclaimable*100/u.Size)
		}
		rows = append(rows, row)
	}
	return format.Execute(cmd.OutOrStdout(), template, usageRow{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}, rows)
}

func showVerboseUsage(cmd *cobra.Command, e *engine.Engine, list *listing) error {
	var custom *format.Template
	if list.format != "" {
		var err error
		if custom, err = format.Parse(list.format); err != nil {
			return err
		}
	}
	rows, err := verboseUsage(cmd, e, list)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if custom != nil {
		return format.Object(out, custom, rows)
	}
	return errors.Join(
		section(out, "Images space usage:", "table {{.Image}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.OnDisk}}\t{{.Shared}}\t{{.Unique}}\t{{.Containers}}\t{{.SharedWith}}",
			imageUsageRow{"IMAGE", "IMAGE ID", "CREATED", "SIZE", "ON DISK", "SHARED", "UNIQUE", "CONTAINERS", "SHARED WITH"}, rows.Images),
		section(out, "\nContainers space usage:", "table {{.ID}}\t{{.Image}}\t{{.Size}}\t{{.Status}}\t{{.Names}}",
			containerUsageRow{"CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"}, rows.Containers),
		section(out, "\nLocal Volumes space usage:", "table {{.Name}}\t{{.Links}}\t{{.Size}}",
			volumeUsageRow{"VOLUME NAME", "LINKS", "SIZE"}, rows.Volumes),
		section(out, "\nCompressed forms:", "table {{.Digest}}\t{{.Layer}}\t{{.Size}}\t{{.Kept}}\t{{.Why}}\t{{.Images}}",
			formRow{"COMPRESSED FORM", "LAYER", "SIZE", "KEPT", "WHY", "IMAGES"}, rows.CompressedForms),
	)
}

// section prints a table with a title.
func section[T any](out io.Writer, title, columns string, header T, rows []T) error {
	template, err := format.Parse(columns)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n\n", title)
	return format.Execute(out, template, header, rows)
}

func verboseUsage(cmd *cobra.Command, e *engine.Engine, list *listing) (*verboseRows, error) {
	ctx := cmd.Context()
	images, err := e.ImageUsage(ctx)
	if err != nil {
		return nil, err
	}
	rows := new(verboseRows)
	now := time.Now()
	for _, img := range images {
		rows.Images = append(rows.Images, newImageUsageRow(img, list, now))
	}
	containers, err := e.Containers(ctx, engine.ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		bytes, err := e.ContainerDisk(ctx, c)
		if err != nil {
			return nil, err
		}
		rows.Containers = append(rows.Containers, containerUsageRow{
			list.hexID(c.ID), list.text(c.ImageName, 40), format.Size(bytes), c.State.Status, c.Name,
		})
	}
	volumes, err := e.VolumeUsage(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		rows.Volumes = append(rows.Volumes, volumeUsageRow{v.Name, strconv.Itoa(v.Links), format.Size(v.Size)})
	}
	forms, err := e.Forms(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range forms {
		rows.CompressedForms = append(rows.CompressedForms, newFormRow(f, list))
	}
	return rows, nil
}

func newImageUsageRow(img *engine.ImageUsage, list *listing, now time.Time) imageUsageRow {
	var with []string
	for _, s := range img.SharedWith {
		with = append(with, imageLabel(s.Image, list)+" "+format.Size(s.Size))
	}
	return imageUsageRow{
		Image: list.text(imageLabel(img, list), 40), ID: list.id(img.ID), CreatedSince: format.Ago(img.Row.Created, now),
		Size: format.Size(img.Size), OnDisk: format.Size(img.OnDisk), Shared: format.Size(img.Shared),
		Unique: format.Size(img.Unique), Containers: strconv.Itoa(img.Containers), SharedWith: list.text(strings.Join(with, ", "), 60),
	}
}

// imageLabel names an image: by its names, or else by its ID.
func imageLabel(img *engine.ImageUsage, list *listing) string {
	if len(img.Names) == 0 {
		return list.id(img.ID)
	}
	return strings.Join(img.Names, ",")
}

func newFormRow(f engine.Form, list *listing) formRow {
	row := formRow{
		Digest: list.id(f.Blob), Layer: list.id(f.DiffID), Size: format.Size(f.Size),
		Kept: "no", Why: list.text(f.Why(), 60), Images: list.text(strings.Join(f.Images, ","), 40),
	}
	if f.Kept {
		row.Kept = "yes"
	}
	return row
}

func newCompactCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "compact",
		GroupID: groupStore,
		Short:   "Give up compressed layers that can be made again",
		Long: `Give up compressed forms of layers that can be made again from the layers' tars.

Each one that is kept is compared, byte for byte, with what known programs make of the
tar: Go's gzip, as Docker, BuildKit and ko use it, klauspost's gzip, and what tarn itself
compresses with. Where one makes the same, the form is removed, and a push makes it again
and verifies it. That takes processor time then; and a tarn that was built with another
version of the program may make other bytes, so that the image would have to be pulled
again before it is pushed elsewhere.

How a form was made is written down before the form goes, in a file of 4 kB: on a disk
that is full to the last block, remove something else first ('tarn prune').`,
		Example: "  tarn compact",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			gone, err := e.Compact(cmd.Context(), func(f engine.Form) {
				result := "Kept, no known program makes it"
				if !f.Kept {
					result = "Removed, m" + f.Why()[1:]
				}
				fmt.Fprintf(out, "%s: %s\n", f.Blob.Short(), result)
			})
			var freed int64
			for _, f := range gone {
				freed += f.Size
			}
			fmt.Fprintf(out, "Total reclaimed space: %s\n", format.Size(freed))
			return err
		},
	}
}
