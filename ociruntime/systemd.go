package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
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
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := s.ask(ctx, conn); err != nil {
		return "", err
	}
	group, err := conn.GetUnitTypePropertyContext(ctx, s.name, "Scope", "ControlGroup")
	if err != nil {
		return "", err
	}
	text, ok := group.Value.Value().(string)
	if !ok || !strings.HasPrefix(text, "/") {
		return "", fmt.Errorf("its cgroup is %v", group.Value)
	}
	s.group = text
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

// ask has systemd start the unit; the same properties as runc's.
func (s *scope) ask(ctx context.Context, conn *dbus.Conn) error {
	property := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	properties := []dbus.Property{
		dbus.PropDescription("tarn container " + s.name), dbus.PropSlice(s.slice),
		property("PIDs", []uint32{uint32(s.waiting.Pid)}), property("Delegate", true), property("DefaultDependencies", false),
		property("CPUAccounting", true), property("MemoryAccounting", true), property("IOAccounting", true), property("TasksAccounting", true),
	}
	result := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, s.name, "replace", properties, result); err != nil {
		return err
	}
	select {
	case how := <-result:
		if how != "done" {
			return fmt.Errorf("its start: %s", how)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
