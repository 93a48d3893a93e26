package container

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container/seccomp"
)

// What is said to be a feature must be one: no option is taken for one of the file system's own, and
// every part of a filter compiles.
func TestFeaturesAreTrue(t *testing.T) {
	f := Features()
	for _, name := range f.MountOptions {
		require.Empty(t, parseOptions([]string{name}).data, name)
	}
	for _, kind := range f.Linux.Namespaces {
		require.Contains(t, namespaceKinds(), specs.LinuxNamespaceType(kind))
	}
	for _, arch := range f.Linux.Seccomp.Archs {
		for _, action := range f.Linux.Seccomp.Actions {
			for _, op := range f.Linux.Seccomp.Operators {
				_, err := seccomp.Compile(&specs.LinuxSeccomp{
					DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.Arch(arch)},
					Syscalls: []specs.LinuxSyscall{{
						Names: []string{"read"}, Action: specs.LinuxSeccompAction(action),
						Args: []specs.LinuxSeccompArg{{Op: specs.LinuxSeccompOperator(op)}},
					}},
				}, "amd64")
				require.NoError(t, err, "%s %s %s", arch, action, op)
			}
		}
	}
}
