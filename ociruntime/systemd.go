package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/dbus"
	"github.com/tarnfs/tarn/internal/sys"
)

// scope is a unit of systemd's that a container's cgroup is in (--systemd-cgroup). systemd makes the unit's cgroup and
// gives it away (Delegate=); what is below that is ours, and so the container's cgroup is below it. A scope
// begins with a process in it: one that only waits, until the container's is there.
type scope struct {
	slice, name string
	group       string // its cgroup, as systemd tells it
	waiting     *sys.Spawned
	release     *os.File
}

// parseScope takes a specification's cgroupsPath as runc does: "slice:prefix:name", where slice may be "".
func parseScope(path, id string) (*scope, error) {
	if path == "" {
		path = ":tarn:" + id
	}
	fields := strings.Split(path, ":")
	if len(fields) != 3 || fields[2] == "" || strings.ContainsRune(path, '/') {
		return nil, fmt.Errorf("cgroupsPath %q: with --systemd-cgroup it has to be slice:prefix:name", path)
	}
	s := &scope{slice: fields[0], name: fields[1] + "-" + fields[2] + ".scope"}
	if s.slice == "" {
		s.slice = "system.slice"
	}
	return s, nil
}

// makeScope has systemd make the cgroup that the specification names, if it is to, and has it name the container's own
// then. The scope is closed when the container is there; it may be nil.
func (r *runtime) makeScope(ctx context.Context, id string, spec *specs.Spec) (*scope, error) {
	if !r.systemd {
		return nil, nil //nolint:nilnil // there is none
	}
	s, err := parseScope(spec.Linux.CgroupsPath, id)
	if err != nil {
		return nil, err
	}
	spec.Linux.CgroupsPath, err = s.start(ctx)
	return s, err
}

// start has systemd make the unit, and gives the cgroup that is to be the container's.
func (s *scope) start(ctx context.Context) (path string, err error) {
	if os.Geteuid() != 0 || sys.InUserNamespace() {
		return "", errors.New("--systemd-cgroup: only root's systemd is asked: choose cgroupfs as the cgroup manager")
	}
	if _, err := os.Lstat("/run/systemd/system"); err != nil {
		return "", errors.New("--systemd-cgroup: systemd does not run here: choose cgroupfs as the cgroup manager " +
			"(podman --cgroup-manager cgroupfs, dockerd --exec-opt native.cgroupdriver=cgroupfs)")
	}
	if err := s.wait(); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("systemd unit %s: %w", s.name, err), s.close())
		}
	}()
	conn, err := dbus.Dial(ctx, "/run/systemd/private") // systemd's own, for root
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := s.ask(ctx, conn); err != nil {
		return "", err
	}
	if !strings.HasPrefix(s.group, "/") {
		return "", fmt.Errorf("its cgroup is %q", s.group)
	}
	// A cgroup with others in it has no processes of its own.
	return s.group + "/container", container.AddProcess(s.waitingGroup(), s.waiting.Pid)
}

func (s *scope) waitingGroup() string { return s.group + "/waiting" }

// wait makes the process that waits.
func (s *scope) wait() error {
	until, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer until.Close()
	p := &sys.Program{}
	defer p.Close()
	p.ResetSignals()
	p.Await(until)
	if s.waiting, err = sys.Spawn(0, nil, p); err != nil {
		return errors.Join(err, release.Close())
	}
	s.release = release // the process ends with it
	return nil
}

// systemd is called at its manager, and by the interfaces of org.freedesktop.systemd1(5).
const (
	systemdName = "org.freedesktop.systemd1"
	manager     = "/org/freedesktop/systemd1"
)

// ask has systemd start the unit, with the same properties as runc's, and waits until it runs.
func (s *scope) ask(ctx context.Context, conn *dbus.Conn) error {
	for {
		_, err := conn.Call(systemdName, manager, systemdName+".Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", s.unit())
		if err == nil {
			break
		}
		exists, ok := errors.AsType[*dbus.Error](err)
		if !ok || exists.Name != systemdName+".UnitExists" || !s.ended(conn) {
			return err
		}
		if err := moment(ctx); err != nil {
			return err
		}
	}
	for {
		switch state, err := s.property(conn, ".Unit", "ActiveState"); {
		case err != nil:
			return err
		case state == "active":
			s.group, err = s.property(conn, ".Scope", "ControlGroup")
			return err
		case state == "failed":
			return errors.New("it has failed to start: see systemctl status")
		}
		if err := moment(ctx); err != nil {
			return err
		}
	}
}

// ended tells whether the unit is one of before, in which nobody is: systemd is about to forget it, but one that has failed
// only when it is told to.
func (s *scope) ended(conn *dbus.Conn) bool {
	state, err := s.property(conn, ".Unit", "ActiveState")
	switch {
	case err != nil:
		return true // it is gone by now
	case state == "failed":
		var name dbus.Body
		name.String(s.name)
		_, err = conn.Call(systemdName, manager, systemdName+".Manager", "ResetFailedUnit", "s", name)
		return err == nil
	}
	group, err := s.property(conn, ".Scope", "ControlGroup")
	if err != nil || group == "" {
		return true
	}
	empty, err := container.IsCgroupEmpty(group)
	return err == nil && empty
}

// property asks for a property of the unit.
func (s *scope) property(conn *dbus.Conn, iface, name string) (string, error) {
	var unit, ask dbus.Body
	unit.String(s.name)
	path, err := conn.Call(systemdName, manager, systemdName+".Manager", "GetUnit", "s", unit)
	if err != nil {
		return "", err
	}
	ask.String(systemdName + iface)
	ask.String(name)
	return conn.Call(systemdName, path, "org.freedesktop.DBus.Properties", "Get", "ss", ask)
}

// moment lets systemd work.
func moment(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Millisecond):
		return nil
	}
}

// unit is what StartTransientUnit takes.
func (s *scope) unit() dbus.Body {
	var b dbus.Body
	property := func(name, kind string, value func()) {
		b.Struct()
		b.String(name)
		b.Signature(kind)
		value()
	}
	b.String(s.name)
	b.String("replace")
	b.Array(8, func() {
		property("Description", "s", func() { b.String("tarn container " + s.name) })
		property("Slice", "s", func() { b.String(s.slice) })
		property("PIDs", "au", func() { b.Array(4, func() { b.Uint32(uint32(s.waiting.Pid)) }) })
		for _, name := range []string{"Delegate", "CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"} {
			property(name, "b", func() { b.Bool(true) })
		}
		property("DefaultDependencies", "b", func() { b.Bool(false) })
	})
	b.Array(8, func() {}) // no other units
	return b
}

// close ends the process that waited; nil needs none. A unit without a process ends by itself.
func (s *scope) close() error {
	if s == nil || s.waiting == nil {
		return nil
	}
	_ = s.release.Close()
	_ = sys.SignalPidFD(s.waiting.PidFD, syscall.SIGKILL)
	s.waiting.Discard()
	s.waiting = nil
	if s.group == "" {
		return nil
	}
	return container.RemoveCgroup(s.waitingGroup())
}
