package ociruntime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

func writeSpec(_ context.Context, _ *runtime, args []string) (int, error) {
	var bundle string
	var rootless bool
	flags := newFlags("spec")
	flags.StringVar(&bundle, "bundle", ".", "`directory` to write config.json into")
	flags.StringVar(&bundle, "b", ".", "`directory` to write config.json into")
	flags.BoolVar(&rootless, "rootless", false, "for a user who is not root")
	if _, err := parse(flags, args, 0, 0); err != nil {
		return 1, err
	}
	spec := exampleSpec()
	if rootless {
		makeRootless(spec)
	}
	text, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return 1, err
	}
	f, err := os.OpenFile(filepath.Join(bundle, configFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return 1, fmt.Errorf("write a specification: %w", err)
	}
	defer f.Close()
	_, err = f.Write(append(text, '\n'))
	return 0, err
}

// exampleSpec is a shell in a read-only root, with little that it may do: runc's example.
func exampleSpec() *specs.Spec {
	const maxFiles = 1024
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	spec := container.DefaultSpec()
	spec.Root = &specs.Root{Path: "rootfs", Readonly: true}
	spec.Hostname = "tarn"
	spec.Process.Terminal = true
	spec.Process.Args = []string{"sh"}
	spec.Process.Env = []string{"PATH=" + container.DefaultPath, "TERM=xterm"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: maxFiles, Soft: maxFiles}}
	spec.Process.NoNewPrivileges = true
	return spec
}

// makeRootless changes a specification into what a user who is not root can have: runc's specconv.ToRootless.
func makeRootless(spec *specs.Spec) {
	l := spec.Linux
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	l.UIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Geteuid()), Size: 1}}
	l.GIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Getegid()), Size: 1}}
	l.Resources, l.Sysctl = nil, nil
	for i, m := range spec.Mounts {
		// There is one group, and the network is the host's: sysfs shows it only to who owns that.
		spec.Mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
		if m.Type == "sysfs" {
			spec.Mounts[i] = specs.Mount{
				Destination: m.Destination, Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"},
			}
		}
	}
}
