package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

// app is what all commands share.
type app struct {
	version string
	options engine.Options
	// reserved is a thread for "run", which takes its time to be there.
	reserved *engine.Reservation
}

// engine opens the store that the global flags choose.
func (a *app) engine() (*engine.Engine, error) { return engine.Open(a.options) }

// Groups of commands in the help.
const (
	groupContainers = "containers"
	groupImages     = "images"
	groupRegistries = "registries"
	groupStore      = "store"
)

// newRootCmd gives the command line for these arguments. To make all commands takes half a millisecond, which
// is much for a container that does little: if it is clear that "run" is meant, that is made alone.
func newRootCmd(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "tarn",
		Short: "Container images and root file systems, with nothing unpacked",
		Long: `Container images and root file systems, with nothing unpacked.

An image layer is kept as its tar, byte for byte, and mounted through a small index.
There is no daemon. Everything lies below --root; mounts and what else need not
outlive a reboot lie below --run.`,
		Example: `  tarn run --rm -it base                        # a shell in the embedded image
  tarn import --name debian debian-root.tar     # a root file system becomes an image
  tarn run --name work debian touch /hello
  tarn commit work debian-hello                 # what changed becomes a layer`,
		Version:       a.version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          helpOrUnknown,
	}
	root.SetVersionTemplate("tarn {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })
	flags := root.PersistentFlags()
	flags.StringVar(&a.options.Root, "root", "", "`directory` of the store (default $TARN_ROOT, or /var/lib/tarn, or without root ~/.local/share/tarn)")
	flags.StringVar(&a.options.Run, "run", "", "`directory` of mounts (default $TARN_RUN, or /run/tarn, or without root $XDG_RUNTIME_DIR/tarn)")
	flags.StringVar(&a.options.Driver, "storage-driver", "",
		"`driver` that mounts layers: auto, erofs or dirs (default $TARN_STORAGE_DRIVER, or auto)")
	suggest(root, "storage-driver", engine.Drivers()...)
	root.AddGroup(
		&cobra.Group{ID: groupContainers, Title: "Containers:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupRegistries, Title: "Registries:"},
		&cobra.Group{ID: groupStore, Title: "Store:"},
	)
	if isRun(args) {
		root.AddCommand(newRunCmd(a))
	} else {
		addCommands(root, a, args)
	}
	for _, cmd := range root.Commands() {
		cmd.DisableFlagsInUseLine = true // those that have any say so themselves
	}
	return root
}

// isRun tells whether it is clear that "run" is meant.
func isRun(args []string) bool { return len(args) > 0 && args[0] == "run" }

func addCommands(root *cobra.Command, a *app, args []string) {
	root.AddCommand(
		newRunCmd(a),
		newCreateCmd(a),
		newStartCmd(a),
		newPsCmd(a),
		newStopCmd(a),
		newKillCmd(a),
		newRestartCmd(a),
		newWaitCmd(a),
		newLogsCmd(a),
		newAttachCmd(a),
		newExecCmd(a),
		newTopCmd(a),
		newStatsCmd(a),
		newEventsCmd(a),
		newPauseCmd(a),
		newUnpauseCmd(a),
		newRenameCmd(a),
		newUpdateCmd(a),
		newRmCmd(a),
		newPortCmd(a),
		newNetworkCmd(a),
		newDiffCmd(a),
		newCommitCmd(a),
		newExportCmd(a),
		newCpCmd(a),
		newContainerCmd(a, args),
		newImagesCmd(a),
		newImportCmd(a),
		newLoadCmd(a),
		newSaveCmd(a),
		newTagCmd(a),
		newRmiCmd(a),
		newHistoryCmd(a),
		newLayersCmd(a),
		newInspectCmd(a),
		newImageCmd(a, args),
		newMountCmd(a),
		newUmountCmd(a),
		newDfCmd(a),
		newCompactCmd(a),
		newCheckCmd(a),
		newRepairCmd(a),
		newPruneCmd(a),
		newVolumeCmd(a),
		newInfoCmd(a),
		newSystemCmd(a, args),
		newUnshareCmd(),
		newPullCmd(a),
		newPushCmd(a),
		newCopyCmd(a),
		newLoginCmd(a),
		newLogoutCmd(),
		newSearchTagsCmd(a),
		newServeCmd(a),
		newRuntimeCmd(a),
		newVersionCmd(a),
		newCompletionCmd(),
	)
}

// helpOrUnknown is what a command does that only has others below it.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return cmd.Help()
}

// unknownCommand also says what may have been meant.
func unknownCommand(parent *cobra.Command, name string) error {
	parent.SuggestionsMinimumDistance = 2
	hint := "see '" + parent.CommandPath() + " --help'"
	if similar := parent.SuggestionsFor(name); len(similar) > 0 {
		hint = "did you mean '" + strings.Join(similar, "', '") + "'?"
	}
	return fmt.Errorf("unknown command %q (%s)", name, hint)
}

// usageError says which command was used wrongly, and where its use is explained.
func usageError(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%s: %w (see '%s --help')", cmd.Name(), err, cmd.CommandPath())
}

// arguments checks the number of arguments; at most is -1 for any number.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError(cmd, fmt.Errorf("too few arguments: use '%s'", cmd.UseLine()))
		case most >= 0 && len(args) > most:
			return usageError(cmd, fmt.Errorf("too many arguments: use '%s'", cmd.UseLine()))
		}
		return nil
	}
}
