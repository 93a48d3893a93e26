package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// layerRow is a layer as --format sees it.
type layerRow struct {
	ID, CreatedBy, CreatedSince, Size, Shared, Added, Changed, Deleted string
}

func newLayersCmd(a *app) *cobra.Command {
	var (
		list  listing
		human bool
	)
	cmd := &cobra.Command{
		Use:     "layers [flags] IMAGE",
		GroupID: groupImages,
		Short:   "Show the stack of layers that an image is made of",
		Long: `Show the stack of layers that an image is made of, the top one first.

A layer's ID is the digest of its tar, and its size that of the tar. It is kept once,
however many images share it. Added, changed and deleted are the files that it adds to
those of the layers below, puts in the place of one, and hides; directories do not count.

Fields for --format: .ID .CreatedBy .CreatedSince .Size .Shared .Added .Changed .Deleted`,
		Example: `  tarn layers debian-hello
  tarn layers -q --no-trunc debian-hello
  tarn layers --format '{{.Size}}	{{.CreatedBy}}' debian-hello`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			template, err := list.template("ID", "Size", "Shared", "Added", "Changed", "Deleted", "CreatedSince", "CreatedBy")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			layers, err := e.Layers(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rows := make([]layerRow, 0, len(layers))
			for _, layer := range layers {
				rows = append(rows, newLayerRow(layer, &list, human))
			}
			return format.Execute(cmd.OutOrStdout(), template, layerRow{
				ID: "LAYER", CreatedBy: "CREATED BY", CreatedSince: "CREATED", Size: "SIZE", Shared: "SHARED WITH",
				Added: "ADDED", Changed: "CHANGED", Deleted: "DELETED",
			}, rows)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	list.addFlags(cmd.Flags(), "layers")
	cmd.Flags().BoolVarP(&human, "human", "H", true, "print sizes in words")
	return cmd
}

func newLayerRow(layer engine.LayerRow, list *listing, human bool) layerRow {
	row := layerRow{
		ID: list.id(layer.Layer), CreatedBy: list.text(layer.CreatedBy, 60), Size: size(layer.Size, human),
		Shared: shared(layer.SharedBy),
		Added:  strconv.Itoa(layer.Added), Changed: strconv.Itoa(layer.Changed), Deleted: strconv.Itoa(layer.Deleted),
	}
	if layer.Created != nil {
		row.CreatedSince = format.Ago(*layer.Created, time.Now())
	}
	return row
}

// shared says with how many other images a layer is shared.
func shared(others int) string {
	switch others {
	case 0:
		return "-"
	case 1:
		return "1 image"
	default:
		return fmt.Sprintf("%d images", others)
	}
}
