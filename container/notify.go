package container

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container/seccomp"
	"github.com/tarnfs/tarn/internal/sys"
)

// prepareSeccomp compiles the specification's filter, unless the caller has one already.
func (m *maker) prepareSeccomp() (err error) {
	profile := m.spec.Linux.Seccomp
	if profile == nil {
		return nil
	}
	if len(m.cfg.Seccomp) == 0 {
		if m.cfg.Seccomp, err = seccomp.Compile(profile, runtime.GOARCH); err != nil {
			return err
		}
	}
	if m.filterFlags, err = filterFlags(profile); err != nil {
		return err
	}
	return checkNotify(profile)
}

// filterFlags gives the flags of seccomp(2).
func filterFlags(profile *specs.LinuxSeccomp) (flags uint, err error) {
	for _, f := range profile.Flags {
		bit, ok := sys.SeccompFlag(string(f))
		if !ok {
			return 0, fmt.Errorf("%w: seccomp flag %q", ErrSpec, f)
		}
		flags |= bit
	}
	if profile.ListenerPath != "" {
		flags |= sys.SeccompNewListener
	}
	return flags, nil
}

// checkNotify refuses profiles whose listener nobody gets, or that has to be asked for what the process
// does to hand it over.
func checkNotify(profile *specs.LinuxSeccomp) error {
	notify := profile.DefaultAction == specs.ActNotify
	if notify {
		return fmt.Errorf("%w: seccomp: a listener cannot be asked about every call", ErrSpec)
	}
	for _, s := range profile.Syscalls {
		if s.Action != specs.ActNotify {
			continue
		}
		notify = true
		for _, name := range []string{"read", "write", "close", "exit_group"} {
			if slices.Contains(s.Names, name) {
				return fmt.Errorf("%w: seccomp: a listener cannot be asked about %s, which hands it over", ErrSpec, name)
			}
		}
	}
	switch {
	case notify && profile.ListenerPath == "":
		return fmt.Errorf("%w: seccomp: SCMP_ACT_NOTIFY needs a listenerPath", ErrSpec)
	case !notify && profile.ListenerPath != "":
		return fmt.Errorf("%w: seccomp: a listenerPath needs a rule with SCMP_ACT_NOTIFY", ErrSpec)
	case profile.ListenerPath == "" && profile.ListenerMetadata != "":
		return fmt.Errorf("%w: seccomp: listenerMetadata needs a listenerPath", ErrSpec)
	}
	return nil
}

// listener is where the filter's listener is to be sent, "" if nowhere.
func (m *maker) listener() string {
	if m.spec.Linux.Seccomp == nil {
		return ""
	}
	return m.spec.Linux.Seccomp.ListenerPath
}

// loadFilter has the process load the filter, and wait until somebody has its listener.
func (m *maker) loadFilter(p *sys.Program) {
	if len(m.cfg.Seccomp) > 0 {
		p.Seccomp(m.cfg.Seccomp, m.filterFlags)
		m.stops.seccomp.write(p)
	}
}

// sendListener takes the listener from the process, which does not know how to send it, and sends
// it to who the specification says, with the state of config-linux.md, "The Container Process State".
func (m *maker) sendListener(_ context.Context, pid int) error {
	message, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: m.spec.Linux.Seccomp.ListenerMetadata, State: m.state(specs.StateCreating, pid),
	})
	if err != nil {
		return err
	}
	err = outside(func() error {
		listener, err := sys.TakeSeccompListener(pid)
		if err != nil {
			return err
		}
		defer listener.Close()
		return sys.SendFileWith(m.listener(), message, listener)
	})
	if err != nil {
		return fmt.Errorf("seccomp listener: %w", err)
	}
	return nil
}
