package container

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// namespaceOfSysctl tells which namespace a sysctl belongs to: only those may be set that the host
// does not share. The list is runc's.
func namespaceOfSysctl(name string) (specs.LinuxNamespaceType, bool) {
	ipc := []string{
		"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax",
		"kernel/shmmni", "kernel/shm_rmid_forced",
	}
	switch {
	case slices.Contains(ipc, name), strings.HasPrefix(name, "fs/mqueue/"):
		return specs.IPCNamespace, true
	case strings.HasPrefix(name, "net/"):
		return specs.NetworkNamespace, true
	case name == "kernel/domainname":
		return specs.UTSNamespace, true
	default:
		return "", false
	}
}

// NamespaceOfSysctl tells which namespace a sysctl belongs to, by the name that people use; false for one of
// the whole machine.
func NamespaceOfSysctl(name string) (specs.LinuxNamespaceType, bool) {
	return namespaceOfSysctl(sysctlPath(name))
}

// sysctlPath gives the file of a sysctl below /proc/sys. Names with a slash in them have dots
// inside their parts ("net/ipv4/conf/eth0.1/forwarding").
func sysctlPath(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return strings.ReplaceAll(name, ".", "/")
}

func checkSysctls(spec *specs.Spec) error {
	for name := range spec.Linux.Sysctl {
		file := sysctlPath(name)
		ns, ok := namespaceOfSysctl(file)
		if !ok || !filepath.IsLocal(file) || filepath.Clean(file) != file {
			return fmt.Errorf("sysctl %q: %w: it is not one of a namespace", name, ErrSpec)
		}
		if !hasNamespace(spec, ns) {
			return fmt.Errorf("sysctl %q: %w: the container shares the host's %s namespace", name, ErrSpec, ns)
		}
	}
	return nil
}

// setSysctls sets the sysctls of the calling thread's namespaces, through the host's /proc: sysctls
// are looked up in the namespaces of who opens them.
func setSysctls(sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	dir, err := sys.OpenPath("/proc/sys")
	if err != nil {
		return err
	}
	defer dir.Close()
	if magic, err := sys.FSType(dir); err != nil || magic != sys.MagicProc {
		return fmt.Errorf("set sysctls: /proc is not procfs: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		if err := writeSysctl(dir, sysctlPath(name), sysctls[name]); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", name, sysctls[name], err)
		}
	}
	return nil
}

func writeSysctl(dir *os.File, name, value string) error {
	f, err := sys.OpenBeneath(dir, name, sys.OpenWrite)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
