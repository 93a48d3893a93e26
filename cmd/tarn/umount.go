package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newUmountCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "umount {CONTAINER|IMAGE... | --all}",
		Aliases: []string{"unmount"},
		GroupID: groupImages,
		Short:   "Take away what 'tarn mount' made",
		Long: `Take away what 'tarn mount' made. The container or image stays as it is. A directory in which
a process works or has a file open is not taken away.`,
		Example: `  tarn umount debian work
  tarn umount --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usageError(cmd, errors.New("give names, or --all"))
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if all {
				if args, err = a.mountedNames(cmd); err != nil {
					return err
				}
			}
			return eachNamed(cmd, args, func(name string) error { return e.Umount(cmd.Context(), name) })
		},
		ValidArgsFunction: complete(-1, a.mountedNames),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all that is mounted")
	return cmd
}
