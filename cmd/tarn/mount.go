package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// mountRow is a mount as --format sees it.
type mountRow struct {
	ID, Name, Type, Path string
}

func newMountCmd(a *app) *cobra.Command {
	var list listing
	cmd := &cobra.Command{
		Use:     "mount [flags] [CONTAINER|IMAGE...]",
		GroupID: groupImages,
		Short:   "Show the whole root of a container or image as a directory",
		Long: `Mount the whole root file system of a container or an image, and print the directory. It
stays until 'tarn umount', or a reboot. Without a name, list what is mounted.

An image's cannot be written to. A container's is the container's own, running or not: what
is written there, the container finds.

Fields for --format: .ID .Name .Type .Path`,
		Example: `  ls "$(tarn mount debian)"
  cp config "$(tarn mount work)/etc/"
  tarn mount                                    # what is mounted, and where`,
		RunE: func(cmd *cobra.Command, args []string) error {
			template, err := list.template("Name", "Path")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if len(args) > 0 && os.Getenv(rootlessEnv) != "" && os.Getenv(unsharedEnv) == "" {
				return fmt.Errorf("what a user without root mounts is only to be seen where it is: use 'tarn unshare sh', and 'tarn mount' there")
			}
			var paths []string
			failed := each(cmd, args, func(name string) error {
				path, err := e.Mount(cmd.Context(), name)
				paths = append(paths, path)
				return err
			})
			if len(args) == 1 && list.format == "" && !list.quiet {
				if failed == nil {
					fmt.Fprintln(cmd.OutOrStdout(), paths[0])
				}
				return failed
			}
			mounts, err := e.Mounts(cmd.Context())
			if err != nil {
				return err
			}
			rows := make([]mountRow, 0, len(mounts))
			for _, mount := range mounts {
				if len(args) == 0 || slices.Contains(paths, mount.Path) {
					rows = append(rows, newMountRow(mount, &list))
				}
			}
			var titles any // the default list has none, for what reads it: as podman
			if list.format != "" {
				titles = mountRow{ID: "ID", Name: "NAME", Type: "TYPE", Path: "PATH"}
			}
			return cmp.Or(format.Execute(cmd.OutOrStdout(), template, titles, rows), failed)
		},
		ValidArgsFunction: complete(-1, a.allNames),
	}
	list.addFlags(cmd.Flags(), "containers and images")
	return cmd
}

func newMountRow(mount engine.MountRow, list *listing) mountRow {
	row := mountRow{ID: mount.ID, Name: mount.Name, Type: engine.KindContainer, Path: mount.Path}
	if mount.Image {
		row.Type = engine.KindImage
	}
	if !list.noTrunc {
		row.ID = mount.ID[:min(12, len(mount.ID))]
	}
	return row
}
