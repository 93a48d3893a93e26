package container

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// Warnings gives what of a specification has no effect on this host, though the container starts: who starts
// it is to tell of that (config.md, "Linux Process", wants it for capabilities). All else that cannot be
// carried out is an error of Start.
func Warnings(spec *specs.Spec) (warnings []error) {
	if spec.Process != nil {
		if names := ungranted(spec); len(names) > 0 {
			warnings = append(warnings, fmt.Errorf("capabilities that nobody can be given here: %s", strings.Join(names, ", ")))
		}
	}
	for _, m := range spec.Mounts {
		if names := withoutMeaning(m); len(names) > 0 {
			warnings = append(warnings, fmt.Errorf("mount %s: no options of a bind mount: %s", m.Destination, strings.Join(names, ", ")))
		}
	}
	if l := spec.Linux; l != nil {
		if l.MountLabel != "" && !seLinuxEnabled() {
			warnings = append(warnings, fmt.Errorf("linux.mountLabel %q: this host has no SELinux", l.MountLabel))
		}
		if l.Resources != nil && l.Resources.Memory != nil {
			warnings = append(warnings, memoryWarnings(l.Resources.Memory)...)
		}
	}
	return warnings
}

//nolint:staticcheck // deprecated limits, that are still asked for
func memoryWarnings(m *specs.LinuxMemory) (warnings []error) {
	if m.Kernel != nil {
		warnings = append(warnings, errors.New("linux.resources.memory.kernel: no kernel since 5.16 limits that"))
	}
	if m.KernelTCP != nil && !hasTCPLimit() {
		warnings = append(warnings, errors.New("linux.resources.memory.kernelTCP: this host has no limit of that"))
	}
	return warnings
}

// ungranted gives the names of capabilities that the running kernel does not know, or that this program has not and so
// cannot give, sorted. In a user namespace of its own the container's root has all.
func ungranted(spec *specs.Spec) []string {
	c := spec.Process.Capabilities
	if c == nil {
		return nil
	}
	grantable, err := sys.PermittedCaps()
	if spec.Linux != nil && hasNamespace(spec, specs.UserNamespace) {
		grantable, err = sys.KernelCaps()
	}
	all := slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(name string) bool {
		set, unknown := sys.ParseCaps([]string{name})
		return len(unknown) == 0 && (err != nil || set&grantable != 0)
	})
}

// withoutMeaning gives the options of a bind mount that are a file system's, whose they were already: runc and
// crun pass them over, and so does this runtime.
func withoutMeaning(m specs.Mount) (names []string) {
	if !isBind(m) {
		return nil
	}
	o := parseOptions(m.Options)
	if o.remount {
		return nil
	}
	for _, d := range o.data {
		if !ofSuperblock(d[0]) {
			names = append(names, d[0])
		}
	}
	return names
}
