package main

import "github.com/spf13/cobra"

func newTagCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "tag IMAGE NAME[:TAG]",
		GroupID: groupImages,
		Short:   "Give an image one more name",
		Long: `Give an image one more name. Without a tag that is NAME:latest.

If another image has the name, it loses it, and is kept without one if that was its last.`,
		Example: `  tarn tag debian-hello hello:v1
  tarn tag 3f2a9c01 ghcr.io/me/tool`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Tag(cmd.Context(), args[0], args[1])
		},
		ValidArgsFunction: complete(2, a.imageNames),
	}
}
