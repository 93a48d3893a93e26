package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/ociruntime"
)

// runtimeArgs tells whether the program is called as the OCI runtime, by its name or by "tarn
// runtime", and gives the arguments of that. It comes before all else: engines start it for every
// container.
func runtimeArgs(args []string) ([]string, bool) {
	switch {
	case len(args) > 0 && filepath.Base(args[0]) == ociruntime.Name:
		return args[1:], true
	case len(args) > 1 && args[1] == runtimeName:
		return args[2:], true
	default:
		return nil, false
	}
}

const runtimeName = "runtime"

// newRuntimeCmd is there to be found in the help: its command line is runc's, and not read here.
func newRuntimeCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     runtimeName + " [flags] COMMAND",
		GroupID: groupContainers,
		Short:   "Be an OCI runtime, with runc's command line",
		Long: `Be an OCI runtime (github.com/opencontainers/runtime-spec) for other engines, with runc's
command line. A link named tarn-runtime is the same. 'tarn runtime help' lists its commands.`,
		Example: `  tarn runtime run --bundle /srv/bundle box
  podman --runtime /usr/local/bin/tarn-runtime run docker.io/library/debian true`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if status := ociruntime.Main(cmd.Context(), a.version, args); status != 0 {
				return &exitError{status: status}
			}
			return nil
		},
	}
}
