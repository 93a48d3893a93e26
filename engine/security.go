package engine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container/seccomp"
)

// maxProfile bounds a seccomp profile.
const maxProfile = 4 << 20

// security is what the --security-opt options ask for.
type security struct {
	noNewPrivileges bool
	seccomp         string // "" for the default profile, "unconfined", or a file
}

// parseSecurity reads options in Docker's spelling: "no-new-privileges", "seccomp=unconfined",
// "seccomp=FILE"; ':' for '=' is Docker's older one.
func parseSecurity(options []string) (security, error) {
	var s security
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found {
			key, value, found = strings.Cut(option, ":")
		}
		switch {
		case key == "no-new-privileges" && (!found || value == "true"):
			s.noNewPrivileges = true
		case key == "no-new-privileges" && value == "false":
			s.noNewPrivileges = false
		case key == "seccomp" && value == "builtin":
			s.seccomp = ""
		case key == "seccomp" && value != "":
			s.seccomp = value
		default:
			return s, fmt.Errorf("%w: security option %q: use no-new-privileges, seccomp=unconfined or seccomp=FILE", ErrOption, option)
		}
	}
	return s, nil
}

// filter gives the system call filter for a container.
func (s security) filter(spec *specs.Spec) ([]byte, error) {
	switch s.seccomp {
	case "unconfined":
		return nil, nil
	case "":
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
