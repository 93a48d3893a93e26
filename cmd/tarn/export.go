package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newExportCmd(a *app) *cobra.Command {
	opts := engine.ExportOptions{Stdout: os.Stdout}
	cmd := &cobra.Command{
		Use:     "export [flags] CONTAINER",
		GroupID: groupContainers,
		Short:   "Write a tar of a container's whole root file system",
		Long: `Write a tar of a container's whole root file system, running or not: what 'tarn mount'
shows. What is mounted in the container, such as volumes, is not in it.

'tarn import' makes an image of one layer of it.`,
		Example: `  tarn export -o work.tar work
  tarn export work | tar -tv                    # what is in it
  tarn export work | tarn import - flat         # all layers become one`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			opts.Container = args[0]
			return e.Export(cmd.Context(), opts)
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	cmd.Flags().StringVarP(&opts.Output, "output", "o", "", "`file` to write (default: standard output)")
	return cmd
}
