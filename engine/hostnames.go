package engine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/network/pasta"
)

// hostGateway stands for the host's address in the container's network.
const hostGateway = "host-gateway"

// maxHostname is __NEW_UTS_LEN of linux/utsname.h.
const maxHostname = 64

// hostname gives the container's host name: it goes into files, so it is checked.
func (e *Engine) hostname(ctx context.Context, d *creation) (string, error) {
	name := d.opts.Hostname
	if key, ok := strings.CutPrefix(d.host.NetworkMode, networkContainer); ok {
		if name != "" {
			return "", fmt.Errorf("%w: --hostname needs a network of the container's own, and the network is %s", ErrOption, d.host.NetworkMode)
		}
		other, err := e.container(ctx, key)
		if err != nil {
			return "", err
		}
		return other.Settings.Config.Hostname, nil
	}
	if name == "" && d.host.NetworkMode == NetworkHost {
		return os.Hostname()
	}
	if name == "" {
		return d.id[:12], nil
	}
	if !isHostname(name) {
		return "", fmt.Errorf("%w: host name %q: use at most %d letters, digits, '-', '.' and '_'", ErrOption, name, maxHostname)
	}
	return name, nil
}

func isHostname(name string) bool {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
	return !bad && name != "" && name[0] != '-' && name[0] != '.' && len(name) <= maxHostname
}

// setNameOptions checks what goes into the container's /etc/resolv.conf and /etc/hosts.
func setNameOptions(opts *NetworkOptions, host *HostConfig) error {
	for _, server := range opts.DNS {
		if _, err := netip.ParseAddr(server); err != nil {
			return fmt.Errorf("%w: --dns %q is no address", ErrOption, server)
		}
	}
	for _, word := range slices.Concat(opts.DNSSearch, opts.DNSOptions) {
		if word == "" || strings.ContainsAny(word, " \t\r\n\x00") {
			return fmt.Errorf("%w: %q in resolv.conf", ErrOption, word)
		}
	}
	for _, entry := range opts.AddHosts {
		if _, _, err := parseExtraHost(entry); err != nil {
			return err
		}
	}
	host.DNS, host.DNSSearch, host.DNSOptions, host.ExtraHosts = opts.DNS, opts.DNSSearch, opts.DNSOptions, opts.AddHosts
	return nil
}

// parseExtraHost reads NAME:IP or NAME=IP. The address is a string, since it may be host-gateway.
func parseExtraHost(entry string) (name, address string, err error) {
	i := strings.IndexAny(entry, ":=")
	if i > 0 && isHostname(entry[:i]) {
		name, address = entry[:i], strings.Trim(entry[i+1:], "[]")
		if _, err := netip.ParseAddr(address); err == nil || address == hostGateway {
			return name, address, nil
		}
	}
	return "", "", fmt.Errorf("%w: --add-host %q: use NAME:IP", ErrOption, entry)
}

// hostsFile makes /etc/hosts of a container that has these places in networks.
func hostsFile(settings *ContainerSettings, places []network.Endpoint, gateway netip.Addr) (string, error) {
	var b strings.Builder
	if settings.Host.NetworkMode == NetworkHost {
		own, err := hostFile("/etc/hosts")
		if err != nil {
			return "", err
		}
		b.WriteString(own)
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
			"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, entry := range settings.Host.ExtraHosts {
		name, address, err := parseExtraHost(entry)
		if err != nil {
			return "", err
		}
		if address == hostGateway {
			if !gateway.IsValid() {
				return "", fmt.Errorf("%w: --add-host %s: the container has no network with a gateway", ErrOption, entry)
			}
			address = gateway.String()
		}
		b.WriteString(address + "\t" + name + "\n")
	}
	if isPasta(settings.Host.NetworkMode) && gateway.IsValid() {
		b.WriteString(gateway.String() + "\thost.containers.internal host.docker.internal\n") // as with podman
	}
	switch {
	case len(places) > 0:
		for _, p := range places {
			for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
				if a.IsValid() {
					b.WriteString(a.String() + "\t" + settings.Config.Hostname + "\n")
				}
			}
		}
	case settings.Host.NetworkMode != NetworkHost:
		b.WriteString("127.0.0.1\t" + settings.Config.Hostname + "\n")
	}
	return b.String(), nil
}

// resolver says how a container finds names: what is in its /etc/resolv.conf, and, if that is our own name
// server, which others that asks.
type resolver struct {
	file     network.Resolv
	own      bool
	upstream []netip.AddrPort
}

// newPastaResolver: pasta leads to the first of the host's name servers, also to one that the host alone can reach. After
// it come the others, without those.
func newPastaResolver(settings *ContainerSettings, options pasta.Options) resolver {
	r := newResolver(settings, false, false)
	if len(settings.Host.DNS) > 0 {
		return r
	}
	forwarded := slices.ContainsFunc(r.file.Servers, netip.Addr.Is4)
	r.file.Servers = slices.DeleteFunc(r.file.Servers, func(a netip.Addr) bool { return a.Unmap().IsLoopback() || a.Zone() != "" })
	if server, ok := options.NameServer(); ok && forwarded {
		r.file.Servers = slices.Insert(r.file.Servers, 0, server)
	}
	return r
}

// newResolver: our own name server is needed in networks with names, and where the host's can be
// reached from the host only.
func newResolver(settings *ContainerSettings, inNetworks, names bool) resolver {
	host := network.HostResolv()
	r := resolver{file: host}
	if given := settings.Host.DNS; len(given) > 0 {
		r.file.Servers = nil
		for _, server := range given {
			a, _ := netip.ParseAddr(server) // it was checked
			r.file.Servers = append(r.file.Servers, a)
		}
	}
	if search := settings.Host.DNSSearch; len(search) > 0 {
		r.file.Search = slices.DeleteFunc(slices.Clone(search), func(s string) bool { return s == "." })
	}
	if options := settings.Host.DNSOptions; len(options) > 0 {
		r.file.Options = options
	}
	r.own = inNetworks && (names || r.file.OfHostOnly() && len(settings.Host.DNS) == 0)
	if r.own {
		for _, a := range r.file.Servers {
			r.upstream = append(r.upstream, netip.AddrPortFrom(a, 53))
		}
		r.file.Servers = []netip.Addr{network.NameServer()}
		if len(settings.Host.DNSOptions) == 0 {
			r.file.Options = append(slices.Clone(r.file.Options), "ndots:0")
		}
	}
	return r
}
