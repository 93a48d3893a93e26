package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network/dns"
	"github.com/tarnfs/tarn/network/link"
	"github.com/tarnfs/tarn/network/pasta"
)

// Pasta is the name that stands for a network that is no network of ours: what the host has, by way of pasta(1).
const Pasta = "pasta"

// Beside is what a container has of the host's network by a process beside it.
type Beside struct {
	pasta.Process
	Endpoint Endpoint   `json:"endpoint"`
	Subnets  []Subnet   `json:"subnets"`       // at most one of IPv4, and one of IPv6
	Host     netip.Addr `json:"host,omitzero"` // the host's own address, if the container reaches it
}

// kept is what a container's file says.
type kept struct {
	dns.Memberships
	Beside *Beside `json:"pasta,omitempty"`
}

func readKept(f *os.File) (k kept, err error) {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxKeeper))
	if err != nil || len(data) == 0 {
		return k, err
	}
	return k, json.Unmarshal(data, &k)
}

// besideDir is where a container's pasta has its files.
func (ns *Networks) besideDir(container string) string {
	return filepath.Join(ns.run, Pasta, container)
}

// AttachBeside connects a container's network namespace with the host's network. child becomes the pasta that does so,
// and ends with the Attachment, or with the thread that made it. The caller closes the Attachment.
func (ns *Networks) AttachBeside(ctx context.Context, s Sandbox, child *pasta.Child, opts pasta.Options, ports []PortMapping, namespace *os.File) (a *Attachment, err error) {
	a = &Attachment{networks: ns}
	defer func() {
		if err != nil {
			child.Discard()
			err = errors.Join(err, a.Close())
			a = nil
		}
	}()
	if a.keeper, err = ns.keep(ctx, s.Container); err != nil {
		return a, err
	}
	published, err := ns.freePorts(ctx, ports)
	if err != nil {
		return a, err
	}
	path, err := pasta.Find()
	if err != nil {
		return a, err
	}
	var forwards []pasta.Forward
	for _, p := range published {
		if f := (pasta.Forward{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Proto: p.Proto}); !isSecond(p) {
			forwards = append(forwards, f)
		}
	}
	args := opts.Args(ctx, path, forwards)
	if !sys.InUserNamespace() {
		args = append(args, "--runas", "0:0") // as nobody, it may not enter root's namespaces
	}
	dir := ns.besideDir(s.Container)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return a, err
	}
	process, err := child.Start(ctx, namespace, dir, args)
	if errors.Is(err, pasta.ErrFailed) {
		err = fmt.Errorf("%w: --network none or --network host may do", err)
	}
	if err != nil {
		return a, err
	}
	a.beside = &Beside{Process: process}
	if err := overwrite(a.keeper.file, kept{Beside: a.beside}); err != nil { // it is to be ended from now on
		return a, err
	}
	if err := a.beside.look(namespace, s, published); err != nil {
		return a, err
	}
	for _, subnet := range a.beside.Subnets {
		if host, ok := opts.Host(args, subnet.Gateway); ok && !a.beside.Host.IsValid() {
			a.beside.Host = host
		}
	}
	return a, overwrite(a.keeper.file, kept{Beside: a.beside})
}

// look finds out what pasta has made.
func (b *Beside) look(namespace *os.File, s Sandbox, published []Published) error {
	seen, err := link.Look(namespace)
	if err != nil {
		return err
	}
	b.Endpoint = Endpoint{Container: s.Container, Name: s.Name, Network: Pasta, Interface: seen.Device, MAC: seen.MAC.String()}
	for _, a := range seen.Addresses {
		to := &b.Endpoint.IPv6
		if a.Addr().Is4() {
			to = &b.Endpoint.IPv4
		}
		if to.IsValid() {
			continue
		}
		*to = a.Addr()
		subnet := Subnet{Subnet: a.Masked()}
		for _, g := range seen.Gateways {
			if g.Is4() == a.Addr().Is4() && !subnet.Gateway.IsValid() {
				subnet.Gateway = g
			}
		}
		b.Subnets = append(b.Subnets, subnet)
	}
	for _, p := range published {
		if p.HostIP.Is4() && b.Endpoint.IPv4.IsValid() || p.HostIP.Is6() && b.Endpoint.IPv6.IsValid() {
			b.Endpoint.Ports = append(b.Endpoint.Ports, p)
		}
	}
	return nil
}

// isSecond tells whether a port is that of all addresses of IPv6, for which pasta needs not be told twice.
func isSecond(p Published) bool { return p.HostIP == netip.IPv6Unspecified() }

// freePorts finds ports of the host that are free, for pasta to bind them. A moment later they may be another's: then
// pasta says so.
func (ns *Networks) freePorts(ctx context.Context, ports []PortMapping) ([]Published, error) {
	for _, p := range ports {
		if p.Proto == "sctp" {
			return nil, fmt.Errorf("%w: port %d/sctp: pasta passes on tcp and udp only", ErrInvalid, p.ContainerPort)
		}
	}
	bound, err := ns.bindAll(ctx, ports, true)
	if errors.Is(err, syscall.EACCES) && sys.InUserNamespace() {
		err = fmt.Errorf("%w: ports below 1024 are root's, unless sysctl net.ipv4.ip_unprivileged_port_start says otherwise", err)
	}
	if err != nil {
		return nil, err
	}
	defer closeBindings(bound)
	var list []Published
	for _, b := range bound {
		list = append(list, b.Published)
	}
	return list, nil
}

// endBeside ends a container's pasta, and removes its files.
func (ns *Networks) endBeside(container string, b *Beside) error {
	if b != nil {
		if err := b.End(); err != nil {
			return err
		}
	}
	return os.RemoveAll(ns.besideDir(container))
}

// BesideOf gives what a running container has by pasta; nil if it has none.
func (ns *Networks) BesideOf(container string) (*Beside, error) {
	f, err := ns.openLive(container)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	k, err := readKept(f)
	return k.Beside, err
}
