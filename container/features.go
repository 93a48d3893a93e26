package container

import (
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/tarnfs/tarn/container/seccomp"
	"github.com/tarnfs/tarn/internal/sys"
)

// Features tells what of a specification this runtime carries out (features.md), whatever the host
// is capable of.
func Features() *features.Features {
	yes, no := new(true), new(false)
	kinds := []string{}
	for _, kind := range slices.Sorted(maps.Keys(namespaceKinds())) {
		kinds = append(kinds, string(kind))
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptionNames(),
		Linux: &features.Linux{
			Namespaces:   kinds,
			Capabilities: sys.CapNames(),
			Cgroup:       &features.Cgroup{V1: yes, V2: yes, Systemd: yes, SystemdUser: no, Rdma: yes},
			Seccomp: &features.Seccomp{
				Enabled: yes, KnownFlags: seccompFlags(), SupportedFlags: seccompFlags(),
				Actions: namesOf(seccomp.Actions()), Operators: namesOf(seccomp.Operators()), Archs: namesOf(seccomp.Architectures()),
			},
			IntelRdt:        &features.IntelRdt{Enabled: no},
			Apparmor:        &features.Apparmor{Enabled: yes},
			Selinux:         &features.Selinux{Enabled: yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: yes}},
			NetDevices:      &features.NetDevices{Enabled: yes},
			MemoryPolicy: &features.MemoryPolicy{
				Modes: prefixed("MPOL_", sys.MemoryPolicyModes), Flags: prefixed("MPOL_F_", sys.MemoryPolicyFlags),
			},
		},
	}
}

func prefixed(prefix, list string) []string {
	names := strings.Fields(list)
	for i, name := range names {
		names[i] = prefix + name
	}
	slices.Sort(names)
	return names
}

// seccompFlags are those that a specification may have.
func seccompFlags() []string {
	return slices.DeleteFunc(prefixed("SECCOMP_FILTER_FLAG_", sys.SeccompFlags), func(name string) bool {
		_, ok := sys.SeccompFlag(name)
		return !ok
	})
}

func namesOf[T ~string](list []T) []string {
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = string(v)
	}
	slices.Sort(names)
	return names
}

// mountOptionNames are the options that mean the same for every file system, sorted.
func mountOptionNames() []string {
	names := []string{"bind", "rbind", "defaults", "remount", "tmpcopyup", "idmap", "ridmap", "copy-symlink"}
	both := []string{
		"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "nosymfollow", "symfollow", "nodiratime", "diratime",
		"noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime",
		"private", "slave", "shared", "unbindable",
	}
	for _, name := range both {
		names = append(names, name, "r"+name)
	}
	slices.Sort(names)
	return names
}
