package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/store"
)

// Networks that a container can have, besides those of 'tarn network ls'.
const (
	NetworkNone = "none" // its own, with nothing but the loopback interface
	NetworkHost = "host" // the host's
	// NetworkPasta is what the host has, by pasta(1): also for users without root, who have no other by default. Options for
	// pasta may follow, "pasta:-t,auto".
	NetworkPasta = network.Pasta

	networkContainer = "container:" // and a container: that one's
)

// setNetwork gives the specification its network namespace: a new one, the host's, or the one at path.
func setNetwork(spec *specs.Spec, mode, path string) {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	switch {
	case mode == NetworkHost:
		spec.Linux.Namespaces = slices.Delete(spec.Linux.Namespaces, i, i+1)
	case path != "":
		spec.Linux.Namespaces[i].Path = path
	default:
		spec.Linux.Sysctl = container.DefaultSysctls()
	}
}

// maxNetworkFile bounds what is taken over of the host's files.
const maxNetworkFile = 1 << 20

// networkFiles are the files of a container that are its own and say who it is in the network.
func networkFiles() []string { return []string{"hostname", "hosts", "resolv.conf"} }

// writeNetworkFiles makes /etc/hostname, /etc/hosts and /etc/resolv.conf in the container's
// directory, from where they are mounted.
func writeNetworkFiles(c *store.Container, settings *ContainerSettings, places []network.Endpoint, gateway netip.Addr, resolv string) error {
	hosts, err := hostsFile(settings, places, gateway)
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
