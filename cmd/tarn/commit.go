package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newCommitCmd(a *app) *cobra.Command {
	var (
		opts    engine.CommitOptions
		noPause bool
	)
	cmd := &cobra.Command{
		Use:     "commit [flags] CONTAINER [NAME[:TAG]]",
		GroupID: groupContainers,
		Short:   "Make an image of what a container changed",
		Long: `Make an image of a container: the layers of its image, and one more of what the container
changed, if it changed anything. Print the image's ID.

What is mounted in the container is not part of it: volumes, tmpfs, /proc, /etc/hosts and
the like. The image has the container's command, environment and labels, as --change
changes them.

A container that runs is paused while its changes are read; --pause=false lets it go on,
and what it writes meanwhile may be in the image or not.

The same changes, options and $SOURCE_DATE_EPOCH give the same ID.`,
		Example: `  tarn commit work debian-hello
  tarn commit -m 'add curl' -a 'Ada <ada@example.com>' work myapp:2
  tarn commit --change 'CMD ["nginx"]' --change 'EXPOSE 80' --change 'ENV MODE=fast' work web
  tarn run --rm "$(tarn commit work)" ls        # without a name`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				opts.Name = args[1]
			}
			opts.Pause = opts.Pause && !noPause
			e, err := a.engine()
			if err != nil {
				return err
			}
			id, err := e.Commit(cmd.Context(), args[0], opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
			return err
		},
		ValidArgsFunction: completeEach(a.containerNames, a.imageNames),
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Author, "author", "a", "", "author, such as `\"Ada <ada@example.com>\"`")
	listVarP(flags, &opts.Changes, "change", "c", "Dockerfile `instruction` to apply: CMD, ENTRYPOINT, ENV, EXPOSE, ...")
	flags.StringVarP(&opts.Message, "message", "m", "", "`text` for the image's history")
	flags.BoolVarP(&opts.Pause, "pause", "p", true, "pause the container while its changes are read")
	flags.BoolVar(&noPause, "no-pause", false, "the same as --pause=false")
	return cmd
}
