package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func ns(kind string) specs.LinuxNamespace {
	return specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind)}
}

func remove(b *box, kind string) []specs.LinuxNamespace {
	return slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == kind })
}

func long() string { return strings.Repeat("x", 65) }

// cgroupRoot is where the cgroup2 hierarchy is, "" if there is none.
func cgroupRoot(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	return ""
}

func cgroupDir(t testing.TB, b *box) string {
	t.Helper()
	return filepath.Join(cgroupRoot(t), b.spec.Linux.CgroupsPath)
}

// state is all that a container could leave behind: mounts, cgroups, children, open files.
type state struct {
	mounts, cgroups, children []string
	files                     int
}

func host(t testing.TB) state {
	t.Helper()
	var s state
	for line := range strings.Lines(hostMounts(t)) {
		mount, _, _ := strings.Cut(line, " - ") // what file system it is can change: others may remount it
		s.mounts = append(s.mounts, mount)
	}
	if root := cgroupRoot(t); root != "" {
		entries, err := os.ReadDir(root)
		require.NoError(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), cgroupPrefix()) {
				s.cgroups = append(s.cgroups, e.Name())
			}
		}
	}
	s.children = children()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	s.files = len(files)
	return s
}

// children lists the processes that this one's threads have made, by their numbers.
func children() []string {
	var list []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is sound
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may end
		list = append(list, strings.Fields(string(text))...)
	}
	return list
}

// unchanged fails if something was added.
func (s state) unchanged(t testing.TB) {
	t.Helper()
	now := host(t)
	// A mount vanishes when somebody else on the machine removes the directory it is on.
	for _, m := range now.mounts {
		require.Contains(t, s.mounts, m, "a mount is left behind")
	}
	require.Equal(t, s.cgroups, now.cgroups, "a cgroup is left behind")
	require.Equal(t, s.children, now.children, "a process is left behind")
	require.LessOrEqual(t, now.files, s.files, "a file is left open")
	// A thread that was a container's ends a moment after its process has been waited for.
	for strangers := 1; strangers > 0; time.Sleep(time.Millisecond) {
		strangers = 0
		links, err := filepath.Glob("/proc/self/task/*/ns/*")
		require.NoError(t, err)
		for _, link := range links {
			to, err := os.Readlink(link)
			if err == nil && to != namespaceLink(t, filepath.Base(link)) {
				strangers++
			}
		}
	}
}

// cgroupPrefix begins the names of this process's cgroups.
func cgroupPrefix() string { return fmt.Sprintf("tarn-test-%d-", os.Getpid()) }
