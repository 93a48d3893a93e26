package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCreateCmd(a *app) *cobra.Command {
	var flags containerFlags
	cmd := &cobra.Command{
		Use:     "create [flags] IMAGE [COMMAND [ARG...]]",
		GroupID: groupContainers,
		Short:   "Make a container without starting it",
		Long: `Make a container without starting it, and print its ID. Its flags are those of 'tarn run'.

The status is 125 when that failed.`,
		Example: `  tarn create --name work debian sleep 1000
  tarn create -v data:/data debian make`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.options(a, cmd, args)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			id, err := e.Create(cmd.Context(), opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
			return err
		},
		ValidArgsFunction: complete(1, a.imageNames),
	}
	flags.add(cmd)
	return cmd
}
