package container_test

import (
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/testenv"
)

// ip changes this process's network with busybox's ip(8), and gives what it prints.
func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Busybox(t), append([]string{"ip"}, strings.Fields(args)...)...).CombinedOutput()
	require.NoError(t, err, "%s: %s", args, out)
	return string(out)
}

// A device of the host's becomes the container's, under another name, with the addresses that are to stay, and turned on.
func TestNetDevices(t *testing.T) {
	inPrivate(t, setting{Network: true}, func(t *testing.T) {
		ip(t, "link add tarn0 type veth")
		for _, address := range []string{"192.0.2.7/24 dev tarn0", "192.0.3.8/24 dev tarn0 scope host", "2001:db8::7/64 dev tarn0"} {
			ip(t, "addr add "+address)
		}
		b := newBox(t)
		b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"tarn0": {Name: "inner%d"}}
		seen := b.shell("ip addr show dev inner0")
		require.Contains(t, seen, "UP", seen)
		require.Contains(t, seen, "192.0.2.7/24")
		require.Contains(t, seen, "2001:db8::7/64")
		require.NotContains(t, seen, "192.0.3.8")
		require.NotContains(t, ip(t, "link"), "tarn0", "it is the container's, and ended with that")

		// A name that is taken is an error, and the host's device then stays.
		ip(t, "link add tarn1 type veth")
		b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"tarn1": {Name: "lo"}}
		_, err := b.start()
		require.ErrorContains(t, err, "the container has a device lo already")
		require.Contains(t, ip(t, "link"), "tarn1")
		for name, message := range map[string]string{"nosuch": "network device nosuch: file does not exist", "a/b": `name "a/b"`, strings.Repeat("x", 16): "name"} {
			b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {}}
			_, err = b.start()
			require.ErrorContains(t, err, message)
		}
		b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"tarn1": {}}
		b.spec.Linux.Namespaces, b.spec.Linux.Sysctl = remove(b, "network"), nil
		_, err = b.start()
		require.ErrorIs(t, err, container.ErrSpec)
		require.ErrorContains(t, err, "need a network namespace")
	})
}
