package container

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// validateSpec refuses what cannot be carried out, and what would otherwise be ignored, of a
// specification whose process is not known yet.
func validateSpec(spec *specs.Spec) error {
	if spec == nil || spec.Linux == nil {
		return fmt.Errorf("%w: linux is missing", ErrSpec)
	}
	if !hasNamespace(spec, specs.UTSNamespace) && (spec.Hostname != "" || spec.Domainname != "") {
		return fmt.Errorf("%w: a host name needs a uts namespace", ErrSpec)
	}
	if name := unsupported(spec); name != "" {
		return fmt.Errorf("%s: %w", name, ErrUnsupported)
	}
	if spec.Linux.RootfsPropagation != "" && !hasNamespace(spec, specs.MountNamespace) {
		return fmt.Errorf("%w: linux.rootfsPropagation needs a mount namespace", ErrSpec)
	}
	if err := checkNetDevices(spec); err != nil {
		return err
	}
	return checkSysctls(spec)
}

// validate refuses the same of the rest.
func validate(spec *specs.Spec, cfg Config) error {
	if spec == nil || spec.Process == nil {
		return fmt.Errorf("%w: process is missing", ErrSpec)
	}
	if spec.Linux == nil {
		return fmt.Errorf("%w: linux is missing", ErrSpec)
	}
	if cfg.Root == nil {
		return fmt.Errorf("%w: no root", ErrSpec)
	}
	if len(cfg.Seccomp)%8 != 0 {
		return fmt.Errorf("%w: the seccomp filter is no array of instructions", ErrSpec)
	}
	if spec.Process.Terminal && (cfg.Stdin != nil || cfg.Stdout != nil || cfg.Stderr != nil) {
		return fmt.Errorf("%w: a container with a terminal takes no other standard files", ErrSpec)
	}
	return validateProcess(spec.Process)
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

// part is a part of a specification that this runtime does not do.
type part struct {
	name string
	set  bool
}

// firstSet gives the name of the first part that is set.
func firstSet(parts ...part) string {
	for _, p := range parts {
		if p.set {
			return p.name
		}
	}
	return ""
}

func unsupported(spec *specs.Spec) string {
	l := spec.Linux
	return firstSet(
		part{"linux.intelRdt", l.IntelRdt != nil},
	)
}
