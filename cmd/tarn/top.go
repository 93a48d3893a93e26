package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newTopCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "top CONTAINER [PS-OPTION...]",
		GroupID: groupContainers,
		Short:   "List a container's processes",
		Long: `List a container's processes, with IDs of the host, as the host's ps(1) does with these
options: -ef, if there are none. They must have it list the column PID.`,
		Example: `  tarn top web
  tarn top web -o pid,rss,args`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			titles, rows, err := e.Top(cmd.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 20, 1, 3, ' ', 0)
			fmt.Fprintln(w, strings.Join(titles, "\t"))
			for _, row := range rows {
				fmt.Fprintln(w, strings.Join(row, "\t"))
			}
			return w.Flush()
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}
