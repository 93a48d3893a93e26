package container_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

// dockerSpec is what testdata/docker printed: Docker's own default.
func dockerSpec(t *testing.T) *specs.Spec {
	t.Helper()
	text, err := os.ReadFile("testdata/docker.json")
	require.NoError(t, err)
	var spec specs.Spec
	require.NoError(t, json.Unmarshal(text, &spec))
	return &spec
}

func TestDefaultsEqualDocker(t *testing.T) {
	ours, docker := container.DefaultSpec(), dockerSpec(t)
	require.Equal(t, docker.Process.Capabilities, ours.Process.Capabilities)
	require.ElementsMatch(t, docker.Linux.ReadonlyPaths, ours.Linux.ReadonlyPaths)

	// Docker adds those per CPU when it starts on a machine that has them.
	masked := slices.DeleteFunc(slices.Clone(ours.Linux.MaskedPaths), func(path string) bool {
		return strings.HasPrefix(path, "/sys/devices/system/cpu/")
	})
	require.ElementsMatch(t, docker.Linux.MaskedPaths, masked)

	// On hosts with cgroup v2 Docker adds a cgroup namespace.
	namespaces := append(slices.Clone(docker.Linux.Namespaces), specs.LinuxNamespace{Type: specs.CgroupNamespace})
	require.ElementsMatch(t, namespaces, ours.Linux.Namespaces)

	// The size of /dev/shm is an option of Docker's, whose default is 64 MiB.
	shm := slices.IndexFunc(docker.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	docker.Mounts[shm].Options = append(docker.Mounts[shm].Options, "size=67108864")
	require.ElementsMatch(t, docker.Mounts, ours.Mounts)
}
