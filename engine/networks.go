package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network"
)

// NetworkCreateOptions says what network to make, as Docker's flags do.
type NetworkCreateOptions struct {
	Name     string
	Driver   string
	Subnets  []string // CIDR
	Gateways []string // each in one of the subnets
	Ranges   []string // CIDR, each in one of the subnets
	IPv6     bool
	Internal bool
	Labels   []string
	Options  []string // of the driver, "key=value"
}

// CreateNetwork makes a network, and gives its ID.
func (e *Engine) CreateNetwork(ctx context.Context, opts NetworkCreateOptions) (string, error) {
	if sys.InUserNamespace() {
		return "", fmt.Errorf("create network %s: %w", opts.Name, errBridgesAreRoots)
	}
	ask := network.CreateOptions{Name: opts.Name, Driver: opts.Driver, IPv6: opts.IPv6, Internal: opts.Internal}
	var err error
	if ask.Subnets, err = subnetsAsked(&opts); err != nil {
		return "", err
	}
	if ask.Labels, err = mergeLabels(nil, opts.Labels); err != nil {
		return "", err
	}
	for _, option := range opts.Options {
		key, value, _ := strings.Cut(option, "=")
		if ask.Options == nil {
			ask.Options = make(map[string]string)
		}
		ask.Options[key] = value
	}
	n, err := e.networks.Create(ctx, ask)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

// subnetsAsked puts gateways and ranges to the subnets that they are in.
func subnetsAsked(opts *NetworkCreateOptions) ([]network.SubnetAsk, error) {
	var list []network.SubnetAsk
	for _, text := range opts.Subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%w: --subnet %q: use for instance 10.1.0.0/16", ErrOption, text)
		}
		list = append(list, network.SubnetAsk{Subnet: p.Masked()})
	}
	for _, text := range opts.Ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%w: --ip-range %q: use for instance 10.1.5.0/24", ErrOption, text)
		}
		i := slices.IndexFunc(list, func(a network.SubnetAsk) bool { return a.Subnet.Contains(p.Addr()) && !a.Range.IsValid() })
		if i < 0 {
			return nil, fmt.Errorf("%w: --ip-range %s is in no --subnet of its own", ErrOption, text)
		}
		list[i].Range = p
	}
	for _, text := range opts.Gateways {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%w: --gateway %q is no address", ErrOption, text)
		}
		i := slices.IndexFunc(list, func(s network.SubnetAsk) bool { return s.Subnet.Contains(a) && !s.Gateway.IsValid() })
		if i < 0 {
			return nil, fmt.Errorf("%w: --gateway %s is in no --subnet of its own", ErrOption, text)
		}
		list[i].Gateway = a
	}
	return list, nil
}

// NetworkFilter selects networks. A network is selected if each kind that has values selects it.
type NetworkFilter struct {
	Names, IDs []string // parts of them
	Drivers    []string
	Labels     []string // "key" or "key=value", all of them
	NotLabels  []string
	Before     time.Time // made before; zero for any time
	Dangling   *bool     // no container has it
}

// ParseNetworkFilter reads "key=value" options, with Docker's keys.
func ParseNetworkFilter(options []string, now time.Time) (NetworkFilter, error) {
	var f NetworkFilter
	return f, eachFilter(options, func(key, value string) (err error) {
		switch key {
		case "name":
			f.Names = append(f.Names, value)
		case "id":
			f.IDs = append(f.IDs, value)
		case "driver":
			f.Drivers = append(f.Drivers, value)
		case "label":
			f.Labels = append(f.Labels, value)
		case "label!":
			f.NotLabels = append(f.NotLabels, value)
		case "until":
			f.Before, err = parseTime(value, now)
		case "dangling":
			err = parseTruth(value, func(yes bool) { f.Dangling = &yes })
		default:
			err = fmt.Errorf("%w: use name, id, driver, label, label!, until or dangling", ErrOption)
		}
		return err
	})
}

func (f *NetworkFilter) selects(n *network.Network, used bool) bool {
	part := func(of string) func(string) bool { return func(p string) bool { return strings.Contains(of, p) } }
	return (len(f.Names) == 0 || slices.ContainsFunc(f.Names, part(n.Name))) &&
		(len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(n.ID, id) })) &&
		(len(f.Drivers) == 0 || slices.Contains(f.Drivers, n.Driver)) &&
		hasLabels(n.Labels, f.Labels) &&
		!hasAnyLabel(n.Labels, f.NotLabels) &&
		(f.Before.IsZero() || n.Created.Before(f.Before)) &&
		(f.Dangling == nil || *f.Dangling == !used)
}

// Networks lists networks, by name. What containers had that died without a word is taken away.
func (e *Engine) Networks(ctx context.Context, filter NetworkFilter) ([]*network.Network, error) {
	if err := e.networks.Collect(); err != nil {
		return nil, err
	}
	if sys.InUserNamespace() {
		return nil, nil // there are none for who is not root
	}
	if _, err := e.networks.Find(ctx, network.Default); err != nil && !errors.Is(err, network.ErrUnable) {
		return nil, err
	}
	all, err := e.networks.List()
	if err != nil {
		return nil, err
	}
	used, err := e.usedNetworks()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(n *network.Network) bool { return !filter.selects(n, used[n.ID]) }), nil
}

// usedNetworks tells by their IDs which networks a container has, whether it runs or not.
func (e *Engine) usedNetworks() (map[string]bool, error) {
	used := make(map[string]bool)
	records, err := e.Store.Containers()
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		c := &Container{Container: record}
		c.readSettings()
		for _, s := range c.Settings.Networks {
			used[s.ID] = true
		}
	}
	return used, nil
}

// RemoveNetwork removes a network that no running container is in.
func (e *Engine) RemoveNetwork(ctx context.Context, key string) error {
	_, err := e.networks.Remove(ctx, key)
	return err
}

// PruneNetworks removes the networks that no container has, and gives their names.
func (e *Engine) PruneNetworks(ctx context.Context, filter NetworkFilter) ([]string, error) {
	filter.Dangling = new(true)
	list, err := e.Networks(ctx, filter)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range list {
		if !Prunable(n) {
			continue
		}
		_, err := e.networks.Remove(ctx, n.Name)
		if errors.Is(err, network.ErrInUse) || errors.Is(err, network.ErrNotFound) {
			continue // since it was looked at
		}
		if err != nil {
			return names, err
		}
		names = append(names, n.Name)
	}
	return names, nil
}

// NetworkReport is a network as "docker network inspect" prints it.
type NetworkReport struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       IPAMReport
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigOnly bool
	Containers map[string]NetworkContainer // those that run, by ID
	Options    map[string]string
	Labels     map[string]string
}

// IPAMReport says which addresses a network has.
type IPAMReport struct {
	Driver  string
	Options map[string]string
	Config  []IPAMConfig
}

// IPAMConfig is a subnet.
type IPAMConfig struct {
	Subnet  string
	IPRange string `json:",omitempty"`
	Gateway string
}

// NetworkContainer is a container in a network.
type NetworkContainer struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string // with the length of the network's prefix
	IPv6Address string
}

// InspectNetwork describes a network.
func (e *Engine) InspectNetwork(ctx context.Context, key string) (*NetworkReport, error) {
	n, err := e.networks.Find(ctx, key)
	if err != nil {
		return nil, err
	}
	endpoints, err := e.networks.Endpoints(n)
	if err != nil {
		return nil, err
	}
	_, v6 := n.IPv6()
	report := &NetworkReport{
		Name: n.Name, ID: n.ID, Created: n.Created.Format(time.RFC3339Nano), Scope: "local", Driver: n.Driver,
		EnableIPv4: true, EnableIPv6: v6, Internal: n.Internal,
		IPAM:       IPAMReport{Driver: "default", Options: map[string]string{}},
		Containers: map[string]NetworkContainer{}, Options: orEmpty(n.Options), Labels: orEmpty(n.Labels),
	}
	for _, s := range n.Subnets {
		c := IPAMConfig{Subnet: s.Subnet.String(), Gateway: s.Gateway.String()}
		if s.Range.IsValid() {
			c.IPRange = s.Range.String()
		}
		report.IPAM.Config = append(report.IPAM.Config, c)
	}
	for _, p := range endpoints {
		c := NetworkContainer{
			Name: p.Name, EndpointID: p.ID(), MacAddress: p.MAC, IPv4Address: withPrefix(p.IPv4, n.IPv4()),
		}
		if s, ok := n.IPv6(); ok {
			c.IPv6Address = withPrefix(p.IPv6, s)
		}
		report.Containers[p.Container] = c
	}
	return report, nil
}

func withPrefix(a netip.Addr, s network.Subnet) string {
	return netip.PrefixFrom(a, s.Subnet.Bits()).String()
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

// ErrNoNetwork is wrapped by errors about a network that is not there.
var ErrNoNetwork = network.ErrNotFound

// Prunable tells whether PruneNetworks would remove a network that no container has.
func Prunable(n *network.Network) bool { return n.Name != network.Default }
