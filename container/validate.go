package container

import (
	"fmt"
	"path"
	"reflect"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// validate refuses what cannot be carried out, and what would otherwise be ignored.
func validate(cfg Config) error {
	spec := cfg.Spec
	if spec == nil || spec.Process == nil || spec.Linux == nil {
		return fmt.Errorf("%w: process or linux is missing", ErrSpec)
	}
	if cfg.Root == nil {
		return fmt.Errorf("%w: no root", ErrSpec)
	}
	if len(cfg.Seccomp)%8 != 0 {
		return fmt.Errorf("%w: the seccomp filter is no array of instructions", ErrSpec)
	}
	if err := validateProcess(spec.Process); err != nil {
		return err
	}
	if spec.Process.Terminal && (cfg.Stdin != nil || cfg.Stdout != nil || cfg.Stderr != nil) {
		return fmt.Errorf("%w: a container with a terminal takes no other standard files", ErrSpec)
	}
	if !hasNamespace(spec, specs.UTSNamespace) && (spec.Hostname != "" || spec.Domainname != "") {
		return fmt.Errorf("%w: a host name needs a uts namespace", ErrSpec)
	}
	if name := unsupported(spec); name != "" {
		return fmt.Errorf("%s: %w", name, ErrUnsupported)
	}
	return checkSysctls(spec)
}

func validateProcess(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return fmt.Errorf("%w: no program to execute", ErrSpec)
	}
	if !path.IsAbs(p.Cwd) {
		return fmt.Errorf("%w: the working directory %q is not absolute", ErrSpec, p.Cwd)
	}
	for _, s := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: NUL in %q", ErrSpec, s)
		}
	}
	// The largest IDs mean "leave as it is" to the kernel: the process would stay root.
	for _, id := range append([]uint32{p.User.UID, p.User.GID}, p.User.AdditionalGids...) {
		if id == ^uint32(0) {
			return fmt.Errorf("%w: there is no user or group ID %d", ErrSpec, id)
		}
	}
	return nil
}

// unsupported gives the name of the first part of the specification that is set and is not done.
func unsupported(spec *specs.Spec) string {
	p, l := spec.Process, spec.Linux
	var resources specs.LinuxResources
	if l.Resources != nil {
		resources = *l.Resources
		resources.Devices = nil
	}
	for _, part := range []struct {
		name string
		set  bool
	}{
		{"hooks", spec.Hooks != nil && !reflect.ValueOf(*spec.Hooks).IsZero()},
		{"process.apparmorProfile", p.ApparmorProfile != ""},
		{"process.selinuxLabel", p.SelinuxLabel != ""},
		{"process.scheduler", p.Scheduler != nil},
		{"process.ioPriority", p.IOPriority != nil},
		{"process.execCPUAffinity", p.ExecCPUAffinity != nil},
		{"linux.uidMappings", len(l.UIDMappings) > 0},
		{"linux.gidMappings", len(l.GIDMappings) > 0},
		{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.resources (other than devices)", !reflect.ValueOf(resources).IsZero()},
		{"linux.mountLabel", l.MountLabel != ""},
		{"linux.intelRdt", l.IntelRdt != nil},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
		{"linux.personality", l.Personality != nil},
		{"linux.netDevices", len(l.NetDevices) > 0},
	} {
		if part.set {
			return part.name
		}
	}
	return ""
}
