package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newPortCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "port CONTAINER [PORT[/PROTOCOL]]",
		GroupID: groupContainers,
		Short:   "Print by which ports of the host a container is reached",
		Long: `Print by which ports of the host a container's ports are reached: all of them, or one. TCP is
meant where no protocol is named.`,
		Example: `  tarn port web
  tarn port web 80`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			ports, err := e.Ports(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				for _, p := range ports {
					fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s\n", p.Container, p.Host)
				}
				return nil
			}
			found, err := engine.FindPort(ports, args[0], args[1])
			for _, p := range found {
				fmt.Fprintln(cmd.OutOrStdout(), p.Host)
			}
			return err
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
}
