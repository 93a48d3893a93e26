package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// delegateCgroup gives the container's cgroup2 cgroup to its user, if that is to manage it: it has a
// user namespace and a cgroup namespace, and the hierarchy is mounted for writing (config-linux.md,
// "Cgroup ownership"). The limits themselves stay the host's.
func (m *maker) delegateCgroup() error {
	if m.namespaces.user == nil || !m.namespaces.cgroup || m.cgroup == nil || m.cgroup.dir == "" || !writesCgroups(m.spec.Mounts) {
		return nil
	}
	uid, _, err := m.namespaces.user.ids(m.spec.Process.User.UID, 0)
	if err != nil {
		return err
	}
	for _, name := range append(delegatedFiles(), ".") {
		err := os.Chown(filepath.Join(m.cgroup.dir, name), uid, -1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delegate the cgroup: %w", err)
		}
	}
	return nil
}

func writesCgroups(mounts []specs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		return (m.Type == "cgroup" || m.Type == "cgroup2") && !slices.Contains(m.Options, "ro")
	})
}

// delegatedFiles are those of a cgroup that go with it: cgroup-v2.rst, "Model of Delegation", and what
// the kernel itself says since Linux 4.15.
func delegatedFiles() []string {
	text, err := os.ReadFile("/sys/kernel/cgroup/delegate")
	if err != nil {
		return []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	}
	return slices.DeleteFunc(strings.Fields(string(text)), func(name string) bool { return strings.Contains(name, "/") })
}
