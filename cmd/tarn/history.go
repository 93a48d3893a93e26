package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// stepRow is a step of an image's history as --format sees it.
type stepRow struct {
	ID, CreatedSince, CreatedAt, CreatedBy, Size, Comment string
}

func newHistoryCmd(a *app) *cobra.Command {
	var (
		list  listing
		human bool
	)
	cmd := &cobra.Command{
		Use:     "history [flags] IMAGE",
		GroupID: groupImages,
		Short:   "Show the steps by which an image was made",
		Long: `Show the steps by which an image was made, the latest first, as the image tells them. Only
the last one has an ID: the image's.

Fields for --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment`,
		Example: `  tarn history debian-hello
  tarn history --no-trunc --format '{{.CreatedBy}}' debian-hello
  tarn history --human=false debian-hello       # bytes and times`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			created := "CreatedSince"
			if !human {
				created = "CreatedAt"
			}
			template, err := list.template("ID", created, "CreatedBy", "Size", "Comment")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			steps, err := e.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rows := make([]stepRow, 0, len(steps))
			for _, step := range steps {
				rows = append(rows, newStepRow(step, &list, human))
			}
			return format.Execute(cmd.OutOrStdout(), template, stepRow{
				ID: "IMAGE", CreatedSince: "CREATED", CreatedAt: "CREATED AT", CreatedBy: "CREATED BY", Size: "SIZE", Comment: "COMMENT",
			}, rows)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	list.addFlags(cmd.Flags(), "steps")
	cmd.Flags().BoolVarP(&human, "human", "H", true, "print sizes and times in words")
	return cmd
}

func newStepRow(step engine.Step, list *listing, human bool) stepRow {
	row := stepRow{
		ID: "<missing>", CreatedBy: list.text(step.CreatedBy, 45), Comment: list.text(step.Comment, 60),
		Size: size(step.Size, human),
	}
	if step.Image != "" {
		row.ID = list.id(step.Image)
	}
	if step.Created != nil {
		row.CreatedSince, row.CreatedAt = format.Ago(*step.Created, time.Now()), step.Created.Format(time.RFC3339)
	}
	return row
}

// size prints a number of bytes, in words or not.
func size(bytes int64, human bool) string {
	if human {
		return format.Size(bytes)
	}
	return strconv.FormatInt(bytes, 10)
}
