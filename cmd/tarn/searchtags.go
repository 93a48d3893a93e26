package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newSearchTagsCmd(a *app) *cobra.Command {
	var (
		reg   registryFlags
		limit int
	)
	cmd := &cobra.Command{
		Use:     "search-tags [flags] NAME",
		GroupID: groupRegistries,
		Short:   "List the tags of a repository in a registry",
		Long:    "List the tags of a repository in a registry, in the registry's order, one on a line.",
		Example: `  tarn search-tags debian
  tarn search-tags --limit 20 registry.example.com/team/app`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tags, err := engine.RemoteTags(cmd.Context(), args[0], reg.options(a))
			if err != nil {
				return err
			}
			if limit > 0 && len(tags) > limit {
				tags = tags[:limit]
			}
			if len(tags) == 0 {
				return nil
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(tags, "\n"))
			return err
		},
	}
	reg.add(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most `n` tags (default: all)")
	return cmd
}
