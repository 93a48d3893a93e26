package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/container/seccomp"
)

// maxProfile bounds a seccomp profile.
const maxProfile = 4 << 20

// security is what the --security-opt options ask for.
type security struct {
	noNewPrivileges bool
	seccomp         string   // "" for the default profile, "unconfined", or a file
	apparmor        string   // "" for none
	mask, unmask    []string // paths
	writableCgroups bool
}

// unconfined is the value of several options for no protection.
const unconfined = "unconfined"

// parseSecurity reads options in Docker's spelling ("no-new-privileges", "seccomp=FILE", "apparmor=PROFILE",
// "label=disable", "systempaths=unconfined", "writable-cgroups=true"), and podman's "mask=PATH:PATH" and
// "unmask=PATH:PATH" or "unmask=ALL". ':' for the first '=' is Docker's older one.
func parseSecurity(options []string) (security, error) {
	var s security
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found {
			key, value, found = strings.Cut(option, ":")
		}
		if err := s.set(key, value, found); err != nil {
			return s, fmt.Errorf("%w: security option %q: use no-new-privileges, seccomp=unconfined or seccomp=FILE, "+
				"apparmor=PROFILE, label=disable, systempaths=unconfined, mask=PATH, unmask=PATH, writable-cgroups=true", err, option)
		}
	}
	return s, nil
}

func (s *security) set(key, value string, found bool) (err error) {
	switch {
	case key == "no-new-privileges" && !found:
		s.noNewPrivileges = true
	case key == "no-new-privileges":
		s.noNewPrivileges, err = parseBool(value)
	case key == "writable-cgroups" && found:
		s.writableCgroups, err = parseBool(value)
	case value == "":
		err = ErrOption
	case key == "seccomp" && value == "builtin":
		s.seccomp = ""
	case key == "seccomp":
		s.seccomp = value
	case key == "apparmor":
		s.apparmor = strings.TrimPrefix(value, unconfined)
	case key == "label" && value == "disable":
		// There are none: labels of SELinux are not made by tarn.
	case key == "systempaths" && value == unconfined:
		s.unmask = append(s.unmask, "ALL")
	case key == "mask", key == "unmask":
		paths := strings.Split(value, ":")
		if slices.ContainsFunc(paths, func(p string) bool { return !path.IsAbs(p) && (key == "mask" || p != "ALL") }) {
			return ErrOption
		}
		if key == "mask" {
			s.mask = append(s.mask, paths...)
		} else {
			s.unmask = append(s.unmask, paths...)
		}
	default:
		err = ErrOption
	}
	return err
}

func parseBool(text string) (bool, error) {
	yes, err := strconv.ParseBool(text)
	if err != nil {
		err = ErrOption
	}
	return yes, err
}

// maskedPaths are those that containers do not see.
func (s *security) maskedPaths() []string {
	return slices.Concat(s.without(container.DefaultMaskedPaths()), s.mask)
}

// readonlyPaths are those that containers do not change.
func (s *security) readonlyPaths() []string { return s.without(container.DefaultReadonlyPaths()) }

// without leaves out what is to be seen as it is; patterns are podman's.
func (s *security) without(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool {
		return slices.ContainsFunc(s.unmask, func(pattern string) bool {
			matches, err := path.Match(pattern, p)
			return pattern == "ALL" || pattern == p || err == nil && matches
		})
	})
}

// addTo says in a specification what is no filter.
func (s *security) addTo(spec *specs.Spec, privileged bool) {
	process := spec.Process
	process.NoNewPrivileges = s.noNewPrivileges
	if !privileged {
		process.ApparmorProfile = s.apparmor
	}
	if s.writableCgroups {
		for n, m := range spec.Mounts {
			if m.Type == "cgroup" {
				spec.Mounts[n].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			}
		}
	}
}

// filter gives the container's system call filter.
func (h *HostConfig) filter(s *security, spec *specs.Spec) ([]byte, error) {
	if h.Privileged && s.seccomp == "" {
		return nil, nil
	}
	return s.filter(spec, !h.Privileged && len(h.CapAdd)+len(h.CapDrop) == 0)
}

// filter gives the system call filter for a container. normal says that it has Docker's usual capabilities:
// the default filter for those is part of this program.
func (s *security) filter(spec *specs.Spec, normal bool) ([]byte, error) {
	switch s.seccomp {
	case unconfined:
		return nil, nil
	case "":
		if !normal {
			return compileDefault(spec)
		}
		if program := seccomp.Default(); program != nil {
			return program, nil
		}
		return nil, fmt.Errorf("%w: no default seccomp profile for %s: use --security-opt seccomp=FILE or seccomp=unconfined",
			errors.ErrUnsupported, runtime.GOARCH)
	}
	program, err := compileProfile(s.seccomp, spec)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %s: %w", s.seccomp, err)
	}
	return program, nil
}

// compileDefault gives the default filter for other capabilities than the usual: it allows more or fewer calls.
func compileDefault(spec *specs.Spec) ([]byte, error) {
	profile, err := moby.GetDefaultProfile(spec)
	if err != nil {
		return nil, err
	}
	return seccomp.Compile(profile, runtime.GOARCH)
}

// compileProfile reads a profile in Docker's format; its conditions may look at the container's
// capabilities.
func compileProfile(path string, spec *specs.Spec) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxProfile {
		return nil, fmt.Errorf("%w: want a file of at most %d MiB", ErrOption, maxProfile>>20)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	profile, err := moby.LoadProfile(string(text), spec)
	if err != nil {
		return nil, err
	}
	if profile == nil {
		return nil, nil
	}
	return seccomp.Compile(profile, runtime.GOARCH)
}
