package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/store"
)

// Networks that a container can have.
const (
	NetworkNone = "none" // its own, with nothing but the loopback interface
	NetworkHost = "host" // the host's
)

func checkNetwork(name string) error {
	switch name {
	case NetworkNone, NetworkHost:
		return nil
	default:
		return fmt.Errorf("%w: network %q: use none or host", ErrOption, name)
	}
}

// maxHostname is __NEW_UTS_LEN of linux/utsname.h.
const maxHostname = 64

// hostname gives the container's host name: it goes into files, so it is checked.
func hostname(id string, opts *CreateOptions) (string, error) {
	name := opts.Hostname
	if name == "" && opts.Network == NetworkHost {
		return os.Hostname()
	}
	if name == "" {
		return id[:12], nil
	}
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
	if bad || name[0] == '-' || name[0] == '.' || len(name) > maxHostname {
		return "", fmt.Errorf("%w: host name %q: use at most %d letters, digits, '-', '.' and '_'", ErrOption, name, maxHostname)
	}
	return name, nil
}

// setNetwork gives the specification its network.
func setNetwork(spec *specs.Spec, network string) {
	if network == NetworkHost {
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
			return ns.Type == specs.NetworkNamespace
		})
		return
	}
	spec.Linux.Sysctl = container.DefaultSysctls()
}

// maxNetworkFile bounds what is taken over of the host's files.
const maxNetworkFile = 1 << 20

// networkFiles are the files of a container that are its own and say who it is in the network.
func networkFiles() []string { return []string{"hostname", "hosts", "resolv.conf"} }

// writeNetworkFiles makes /etc/hostname, /etc/hosts and /etc/resolv.conf in the container's
// directory, from where they are mounted.
func writeNetworkFiles(c *store.Container, settings *ContainerSettings) error {
	hosts, err := hostsFile(settings)
	if err != nil {
		return err
	}
	resolv, err := hostFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"hostname": settings.Config.Hostname + "\n", "hosts": hosts, "resolv.conf": resolv,
	} {
		if err := writePlain(filepath.Join(c.Dir(), name), content); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	return nil
}

// writePlain needs no fsync: with a container whose files a power cut took, nothing is lost.
func writePlain(path, content string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

func hostsFile(settings *ContainerSettings) (string, error) {
	if settings.Host.NetworkMode == NetworkHost {
		return hostFile("/etc/hosts")
	}
	return `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
127.0.0.1	` + settings.Config.Hostname + "\n", nil
}

// hostFile reads a file of the host; one that is not there is empty.
func hostFile(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxNetworkFile))
	return string(content), err
}
