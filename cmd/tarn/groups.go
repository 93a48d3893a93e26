package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

// newGroupCmd makes "container", "image" or "system", which have Docker's other names for commands: they are made
// only if the arguments name the group, since that takes time.
func newGroupCmd(args []string, cmd *cobra.Command, members func() []*cobra.Command) *cobra.Command {
	name, _, _ := strings.Cut(cmd.Use, " ")
	if slices.Contains(args, name) {
		return withMembers(cmd, members()...)
	}
	return withMembers(cmd)
}

// withMembers makes a command that only has others below it.
func withMembers(cmd *cobra.Command, members ...*cobra.Command) *cobra.Command {
	cmd.Args, cmd.RunE = cobra.ArbitraryArgs, helpOrUnknown
	cmd.AddCommand(members...)
	for _, sub := range members {
		sub.DisableFlagsInUseLine, sub.GroupID = true, ""
	}
	return cmd
}

// as gives a command another name, and further ones.
func as(cmd *cobra.Command, name string, aliases ...string) *cobra.Command {
	_, rest, _ := strings.Cut(cmd.Use, " ")
	cmd.Use, cmd.Aliases = name+" "+rest, aliases
	return cmd
}

func newContainerCmd(a *app, args []string) *cobra.Command {
	return newGroupCmd(args, &cobra.Command{
		Use:     "container COMMAND",
		GroupID: groupContainers,
		Short:   "The commands for containers, by Docker's other names",
		Example: `  tarn container ls -a
  tarn container prune`,
	}, func() []*cobra.Command {
		return []*cobra.Command{
			newAttachCmd(a), newCommitCmd(a), newCpCmd(a), newCreateCmd(a), newDiffCmd(a), newExecCmd(a), newExportCmd(a),
			newInspectOfCmd(a, engine.KindContainer, a.containerNames, &cobra.Command{
				Use:     "inspect [flags] CONTAINER...",
				Short:   "Describe containers in full, as JSON",
				Example: `  tarn container inspect -f '{{.State.Status}}' web`,
			}),
			newKillCmd(a), newLogsCmd(a), as(newPsCmd(a), "ls", "list", "ps"), newMountCmd(a), newPauseCmd(a), newPortCmd(a),
			newContainerPruneCmd(a), newRenameCmd(a), newRestartCmd(a), as(newRmCmd(a), "rm", "remove"), newRunCmd(a), newStartCmd(a),
			newStatsCmd(a), newStopCmd(a), newTopCmd(a), newUmountCmd(a), newUnpauseCmd(a), newUpdateCmd(a), newWaitCmd(a),
		}
	})
}

func newImageCmd(a *app, args []string) *cobra.Command {
	return newGroupCmd(args, &cobra.Command{
		Use:     "image COMMAND",
		GroupID: groupImages,
		Short:   "The commands for images, by Docker's other names",
		Example: `  tarn image ls
  tarn image prune`,
	}, func() []*cobra.Command {
		return []*cobra.Command{
			newHistoryCmd(a), newImportCmd(a),
			newInspectOfCmd(a, engine.KindImage, a.imageNames, &cobra.Command{
				Use:     "inspect [flags] IMAGE...",
				Short:   "Describe images in full, as JSON",
				Example: `  tarn image inspect -f '{{json .Config.Env}}' debian`,
			}),
			newLayersCmd(a), newLoadCmd(a), as(newImagesCmd(a), "ls", "list"), newMountCmd(a), newPruneCmd(a), newPullCmd(a),
			newPushCmd(a), as(newRmiCmd(a), "rm", "remove"), newSaveCmd(a), newTagCmd(a), newUmountCmd(a),
		}
	})
}

func newSystemCmd(a *app, args []string) *cobra.Command {
	return newGroupCmd(args, &cobra.Command{
		Use:     "system COMMAND",
		GroupID: groupStore,
		Short:   "The commands for the whole store, by Docker's other names",
		Long: `The commands for the whole store, by Docker's other names. Other than Docker's, 'tarn system
prune' leaves containers and networks alone: see 'tarn container prune', 'tarn network prune'.`,
		Example: `  tarn system df -v`,
	}, func() []*cobra.Command {
		return []*cobra.Command{newCheckCmd(a), newDfCmd(a), newEventsCmd(a), newInfoCmd(a), newPruneCmd(a)}
	})
}
