package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// imageRow is an image as --format sees it.
type imageRow struct {
	ID, Repository, Tag, Digest, CreatedSince, CreatedAt, Size, Labels, Compressed string
}

const none = "<none>"

func newImagesCmd(a *app) *cobra.Command {
	var (
		list         listing
		all, digests bool
		filters      []string
	)
	cmd := &cobra.Command{
		Use:     "images [flags] [NAME[:TAG]]",
		GroupID: groupImages,
		Short:   "List images",
		Long: `List images, the newest first, or those of one name, which may be a pattern.

The size is that of the layers' tars; a layer that several images share counts for each of
them. An image without a name was made without one, or its last name went to another.

Filters: reference=PATTERN, dangling=true|false (without a name), label=KEY[=VALUE],
before=IMAGE, since=IMAGE.
With --digests it is also said what of the layers' compressed forms, which a push needs to
give the digest again, is kept besides the tars ('tarn df -v' says why), or can be made
again.

Fields for --format: .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size .Labels
.Compressed`,
		Example: `  tarn images
  tarn images debian                            # all tags of debian
  tarn images -q --filter dangling=true         # IDs of those without a name
  tarn images --filter 'reference=ghcr.io/*/*' --filter since=base
  tarn images --format '{{.Repository}}:{{.Tag}} {{.Size}}'`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := engine.ParseImageFilter(filters, all)
			if err != nil {
				return err
			}
			filter.References = append(filter.References, args...)
			columns := []string{"Repository", "Tag", "ID", "CreatedSince", "Size"}
			if digests {
				columns = []string{"Repository", "Tag", "Digest", "ID", "CreatedSince", "Size", "Compressed"}
			}
			template, err := list.template(columns...)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			images, err := e.Images(cmd.Context(), filter)
			if err != nil {
				return err
			}
			rows := make([]imageRow, 0, len(images))
			for _, img := range images {
				row := newImageRow(img, &list)
				if digests || list.uses("Compressed") {
					if row.Compressed, err = compressedForms(e, img); err != nil {
						return err
					}
				}
				rows = append(rows, row)
			}
			return format.Execute(cmd.OutOrStdout(), template, imageRow{
				ID: "IMAGE ID", Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST",
				CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE", Labels: "LABELS", Compressed: "COMPRESSED FORMS",
			}, rows)
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	flags := cmd.Flags()
	list.addFlags(flags, "images")
	flags.BoolVarP(&all, "all", "a", false, "list images without a name that others were made from, too")
	flags.BoolVar(&digests, "digests", false, "print the digests of the images' manifests")
	listVarP(flags, &filters, "filter", "f", "list only images with `KEY=VALUE`; all that are given must hold")
	suggest(cmd, "filter", "reference=", "dangling=true", "dangling=false", "label=", "before=", "since=")
	return cmd
}

func newImageRow(img engine.ImageRow, list *listing) imageRow {
	row := imageRow{
		ID: list.id(img.ID), Repository: none, Tag: none, Digest: string(img.Digest), Size: format.Size(img.Size),
		CreatedSince: format.Ago(img.Created, time.Now()), CreatedAt: timestamp(img.Created), Labels: joinLabels(img.Labels),
	}
	if !img.Dangling() {
		row.Repository, row.Tag = img.Name.FamiliarName(), cmp.Or(img.Name.Tag(), none)
	}
	return row
}

// compressedForms says what is kept besides the tars so that the image can be pushed as it came.
func compressedForms(e *engine.Engine, img engine.ImageRow) (string, error) {
	kept, remade, err := e.KeptForms(img)
	switch {
	case err != nil:
		return "", err
	case kept > 0 && remade > 0:
		return fmt.Sprintf("%s kept, %d made again", format.Size(kept), remade), nil
	case kept > 0:
		return format.Size(kept) + " kept", nil
	case remade > 0:
		return fmt.Sprintf("%d made again", remade), nil
	default:
		return "none needed", nil
	}
}

// timestamp prints a time as Docker does in lists, "" if it is not known.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}
