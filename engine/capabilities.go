package engine

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

const allCaps = "ALL"

// normalCapabilities gives names as the kernel has them, sorted: "net_raw" is CAP_NET_RAW.
func normalCapabilities(flag string, names []string) ([]string, error) {
	var normal []string
	for _, name := range names {
		name = strings.ToUpper(name)
		if name != allCaps && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if name != allCaps && !slices.Contains(sys.CapNames(), name) {
			return nil, optionError(flag, "unknown capability %q", name)
		}
		normal = append(normal, name)
	}
	slices.Sort(normal)
	return slices.Compact(normal), nil
}

// capabilities are those of a container's processes, by Docker's rules.
func (i *Isolation) capabilities() ([]string, error) {
	if i.Privileged {
		return allCapabilities()
	}
	caps := container.DefaultCapabilities()
	switch {
	case slices.Contains(i.CapAdd, allCaps):
		all, err := allCapabilities()
		if err != nil {
			return nil, err
		}
		caps = all
	case slices.Contains(i.CapDrop, allCaps):
		caps = nil
	}
	caps = slices.DeleteFunc(caps, func(name string) bool { return slices.Contains(i.CapDrop, name) })
	own, err := allCapabilities()
	if err != nil {
		return nil, err
	}
	for _, name := range i.CapAdd {
		switch {
		case name == allCaps, slices.Contains(caps, name):
		case !slices.Contains(own, name):
			return nil, fmt.Errorf("%w: --cap-add %s: tarn does not have it itself, so it cannot give it", ErrOption, name)
		default:
			caps = append(caps, name)
		}
	}
	return caps, nil
}

func (i *Isolation) setCapabilities(process *specs.Process) error {
	if !i.Privileged && len(i.CapAdd)+len(i.CapDrop) == 0 {
		return nil
	}
	caps, err := i.capabilities()
	if err != nil {
		return err
	}
	process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: slices.Clone(caps), Permitted: slices.Clone(caps)}
	return nil
}
