package container

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// checkNetDevices refuses names that the kernel would (dev_valid_name in net/core/dev.c), and devices for a
// container in the host's network namespace.
func checkNetDevices(spec *specs.Spec) error {
	devices := spec.Linux.NetDevices
	if len(devices) > 0 && !hasNamespace(spec, specs.NetworkNamespace) {
		return fmt.Errorf("%w: linux.netDevices need a network namespace", ErrSpec)
	}
	for name, d := range devices {
		for _, n := range []string{name, newName(name, d)} {
			const longest = 15
			if n == "" || len(n) > longest || n == "." || n == ".." || strings.ContainsAny(n, "/: \t\n\v\f\r") {
				return fmt.Errorf("%w: linux.netDevices: name %q", ErrSpec, n)
			}
		}
	}
	return nil
}

func newName(name string, d specs.LinuxNetDevice) string {
	if d.Name != "" {
		return d.Name
	}
	return name
}

// moveNetDevices moves network devices of the host to the container (config-linux.md, "Network Devices"). The thread is
// in the container's network namespace.
func moveNetDevices(devices map[string]specs.LinuxNetDevice) error {
	if len(devices) == 0 {
		return nil
	}
	here, err := sys.OpenNamespace("/proc/thread-self/ns/net", sys.NewNet)
	if err != nil {
		return err
	}
	defer here.Close()
	known, err := sys.NetDevices()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		// The kernel sees this too late: when it has moved the device.
		if inner := newName(name, devices[name]); known[inner] != 0 {
			return fmt.Errorf("linux.netDevices: %w: the container has a device %s already", ErrSpec, inner)
		}
		addresses, err := takeNetDevice(name, newName(name, devices[name]), here)
		if err != nil {
			return fmt.Errorf("linux.netDevices: %w", err)
		}
		if err := sys.AdoptNetDevice(known, addresses); err != nil {
			return fmt.Errorf("linux.netDevices: %w", err)
		}
	}
	return nil
}

func takeNetDevice(name, newName string, to *os.File) (addresses sys.NetAddresses, err error) {
	err = outside(func() (err error) {
		addresses, err = sys.MoveNetDevice(name, newName, to)
		return err
	})
	return addresses, err
}
