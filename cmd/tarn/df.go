package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// usageRow is a kind of thing as --format sees it.
type usageRow struct {
	Type, TotalCount, Active, Size, Reclaimable string
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
		Long: `Show what takes room on the disk, and what of it could be had back.

Layers are the tars. Compressed forms are what manifests name: they are kept as they came, so
that a push gives the same digests, unless they can be made again from the tar (see 'tarn
compact'). With -v each of them is listed, and why it is kept.

Fields for --format: .Type .TotalCount .Active .Size .Reclaimable
With -v: .Digest .Layer .Size .Kept .Why .Images`,
		Example: `  tarn df
  tarn df -v
  tarn df --format '{{.Type}} {{.Size}}'`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if verbose {
				return showForms(cmd, e, &list)
			}
			return showUsage(cmd, e, &list)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&verbose, "verbose", "v", false, "list the layers' compressed forms, and why they are kept")
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

func showForms(cmd *cobra.Command, e *engine.Engine, list *listing) error {
	template, err := list.template("Digest", "Layer", "Size", "Kept", "Why", "Images")
	if err != nil {
		return err
	}
	forms, err := e.Forms(cmd.Context())
	if err != nil {
		return err
	}
	rows := make([]formRow, 0, len(forms))
	for _, f := range forms {
		rows = append(rows, newFormRow(f, list))
	}
	return format.Execute(cmd.OutOrStdout(), template,
		formRow{"COMPRESSED FORM", "LAYER", "SIZE", "KEPT", "WHY", "IMAGES"}, rows)
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
again before it is pushed elsewhere.`,
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
