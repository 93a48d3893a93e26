package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/internal/rootless"
)

// rootlessEnv, in the environment, is the number of the user whose namespaces this is in.
const rootlessEnv = "TARN_ROOTLESS_UID"

// unsharedEnv is there besides in what 'tarn unshare' runs.
const unsharedEnv = "TARN_UNSHARED"

// withoutRoot runs this command in the user's own namespaces, if it is not run by root, and gives its exit
// status.
func withoutRoot(args []string) (status int, done bool) {
	if os.Geteuid() == 0 || !needsRights(args) {
		return 0, false
	}
	root, run, err := rootless.Places()
	if err == nil {
		run = cmp.Or(os.Getenv("TARN_RUN"), run)
		status, err = rootless.Run(context.Background(), run, []string{
			rootlessEnv + "=" + fmt.Sprint(os.Getuid()), "TARN_ROOT=" + root, "TARN_RUN=" + run, "TARN_STORAGE_DRIVER=dirs",
		})
	}
	if err != nil {
		complain(os.Stderr, err)
		return cmp.Or(status, 125), true
	}
	return status, true
}

// needsRights tells whether a command may look at the store.
func needsRights(args []string) bool {
	without := []string{"help", "version", "completion", "login", "logout"}
	return len(args) > 0 && !slices.Contains(without, args[0]) && !slices.Contains(args, "--help") && !slices.Contains(args, "--version")
}

func newUnshareCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "unshare [COMMAND [ARG...]]",
		GroupID: groupStore,
		Short:   "Run a command where tarn works for a user without root",
		Long: `Run a command, or a shell, in the namespaces in which tarn works for a user without root.
There the user is root, the users of containers are who they are in them, and what 'tarn
mount' shows is to be seen.`,
		Example: `  tarn unshare ls -ln "$HOME/.local/share/tarn"
  tarn unshare sh -c 'ls "$(tarn mount debian)"'`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if os.Getenv(rootlessEnv) == "" {
				return fmt.Errorf("unshare is for users without root: root has no need of it")
			}
			if len(args) == 0 {
				args = []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}
			}
			command := exec.CommandContext(cmd.Context(), args[0], args[1:]...)
			command.Env = append(os.Environ(), unsharedEnv+"=1")
			command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
			err := command.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return &exitError{status: exit.ExitCode()}
			}
			return err
		},
	}
	return cmd
}
