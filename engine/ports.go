package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/network"
)

// NetworkSettingsReport is what a container has of networks, as "docker container inspect" prints it.
type NetworkSettingsReport struct {
	SandboxID           string
	SandboxKey          string                   // its network namespace, "" if it does not run
	Ports               map[string][]PortBinding // by the container's; null for one that is only exposed
	IPAddress           string                   // in the default network, as all that follows
	IPPrefixLen         int
	Gateway             string
	MacAddress          string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string
	Networks            map[string]EndpointReport
}

// EndpointReport is a container's place in a network. One that does not run has no addresses.
type EndpointReport struct {
	Aliases             []string
	NetworkID           string
	EndpointID          string
	IPAddress           string
	IPPrefixLen         int
	Gateway             string
	MacAddress          string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string
}

// networkReport describes what a container has of networks.
func (e *Engine) networkReport(ctx context.Context, c *Container) (NetworkSettingsReport, error) {
	r := NetworkSettingsReport{Ports: map[string][]PortBinding{}, Networks: map[string]EndpointReport{}}
	if c.Running() {
		r.SandboxID, r.SandboxKey = c.ID, fmt.Sprintf("/proc/%d/ns/net", c.State.Process.PID)
	}
	places, err := e.networks.Of(c.ID)
	if err != nil {
		return r, err
	}
	for key := range c.Settings.Config.ExposedPorts {
		if len(places) > 0 {
			r.Ports[key] = nil
		}
	}
	for _, p := range places {
		for _, port := range p.Ports {
			key := fmt.Sprintf("%d/%s", port.ContainerPort, port.Proto)
			r.Ports[key] = append(r.Ports[key], PortBinding{HostIP: port.HostIP.String(), HostPort: fmt.Sprint(port.HostPort)})
		}
	}
	if mode := c.Settings.Host.NetworkMode; isPasta(mode) {
		r.Networks[NetworkPasta], err = e.besideReport(c.ID)
	} else if !isNetwork(mode) {
		r.Networks[mode] = EndpointReport{}
	}
	for _, s := range c.Settings.Networks {
		report := EndpointReport{NetworkID: s.ID, Aliases: s.Aliases, MacAddress: s.MAC}
		i := slices.IndexFunc(places, func(p network.Endpoint) bool { return p.Network == s.ID })
		if n, err := e.networks.Find(ctx, s.Name); err == nil && i >= 0 {
			report.fill(&places[i], n)
		}
		if s.Name == network.Default {
			r.IPAddress, r.IPPrefixLen, r.Gateway, r.MacAddress = report.IPAddress, report.IPPrefixLen, report.Gateway, report.MacAddress
			r.GlobalIPv6Address, r.GlobalIPv6PrefixLen, r.IPv6Gateway = report.GlobalIPv6Address, report.GlobalIPv6PrefixLen, report.IPv6Gateway
		}
		r.Networks[s.Name] = report
	}
	return r, err
}

// besideReport describes what a container has by pasta.
func (e *Engine) besideReport(id string) (r EndpointReport, err error) {
	b, err := e.networks.BesideOf(id)
	if b == nil || err != nil {
		return r, err
	}
	r.EndpointID, r.MacAddress = b.Endpoint.ID(), b.Endpoint.MAC
	for _, s := range b.Subnets {
		gateway := ""
		if s.Gateway.IsValid() {
			gateway = s.Gateway.String()
		}
		if s.Subnet.Addr().Is4() {
			r.IPAddress, r.IPPrefixLen, r.Gateway = b.Endpoint.IPv4.String(), s.Subnet.Bits(), gateway
		} else {
			r.GlobalIPv6Address, r.GlobalIPv6PrefixLen, r.IPv6Gateway = b.Endpoint.IPv6.String(), s.Subnet.Bits(), gateway
		}
	}
	return r, nil
}

func (r *EndpointReport) fill(p *network.Endpoint, n *network.Network) {
	v4 := n.IPv4()
	r.EndpointID, r.MacAddress = p.ID(), p.MAC
	r.IPAddress, r.IPPrefixLen, r.Gateway = p.IPv4.String(), v4.Subnet.Bits(), v4.Gateway.String()
	if v6, ok := n.IPv6(); ok {
		r.GlobalIPv6Address, r.GlobalIPv6PrefixLen, r.IPv6Gateway = p.IPv6.String(), v6.Subnet.Bits(), v6.Gateway.String()
	}
}

// PublishedPort is a port of the host that leads to a container's.
type PublishedPort struct {
	Container string // "80/tcp"
	Host      netip.AddrPort
}

// Ports lists a running container's ports that can be reached by ports of the host.
func (e *Engine) Ports(ctx context.Context, key string) ([]PublishedPort, error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return nil, err
	}
	return e.portsOf(c)
}

func (e *Engine) portsOf(c *Container) ([]PublishedPort, error) {
	places, err := e.networks.Of(c.ID)
	if err != nil {
		return nil, err
	}
	var list []PublishedPort
	for _, p := range places {
		for _, port := range p.Ports {
			list = append(list, PublishedPort{
				Container: fmt.Sprintf("%d/%s", port.ContainerPort, port.Proto), Host: netip.AddrPortFrom(port.HostIP, port.HostPort),
			})
		}
	}
	order := sortedPorts(keys(list))
	slices.SortStableFunc(list, func(a, b PublishedPort) int {
		return cmp.Compare(slices.Index(order, a.Container), slices.Index(order, b.Container))
	})
	return list, nil
}

func keys(list []PublishedPort) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, p := range list {
		set[p.Container] = true
	}
	return set
}

// PortsText lists a container's ports as "docker ps" does: "0.0.0.0:8080->80/tcp, 443/tcp". One that
// does not run has none.
func (e *Engine) PortsText(c *Container) (string, error) {
	if !c.Running() {
		return "", nil
	}
	list, err := e.portsOf(c)
	if err != nil {
		return "", err
	}
	var words []string
	published := keys(list)
	for _, p := range list {
		words = append(words, p.Host.String()+"->"+p.Container)
	}
	for _, key := range sortedPorts(c.Settings.Config.ExposedPorts) {
		if !published[key] && (isNetwork(c.Settings.Host.NetworkMode) || isPasta(c.Settings.Host.NetworkMode)) {
			words = append(words, key)
		}
	}
	return strings.Join(words, ", "), nil
}

// NetworksText lists a container's networks as "docker ps" does.
func NetworksText(c *Container) string {
	if len(c.Settings.Networks) == 0 {
		return c.Settings.Host.NetworkMode
	}
	var names []string
	for _, s := range c.Settings.Networks {
		names = append(names, s.Name)
	}
	return strings.Join(names, ",")
}

// FindPort gives the ports of the host for one of the container's: "80", or "80/tcp".
func FindPort(ports []PublishedPort, container, port string) ([]PublishedPort, error) {
	mappings, err := network.ParseExposed(port)
	if err != nil {
		return nil, err
	}
	key, _ := bindingOf(mappings[0])
	found := slices.DeleteFunc(slices.Clone(ports), func(p PublishedPort) bool { return p.Container != key })
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: port %s of container %s", ErrNotPublished, key, container)
	}
	return found, nil
}

// ErrNotPublished is wrapped by errors about a port that no port of the host leads to.
var ErrNotPublished = errors.New("not published")
