package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/network/pasta"
)

// NetworkOptions says what a container has of networks, as Docker's flags do.
type NetworkOptions struct {
	Networks   []string // NetworkNone, NetworkHost, NetworkPasta[:OPTION,…], "container:NAME", or networks: NAME, or NAME,KEY=VALUE…; none is the default network
	Publish    []string // [IP:][HOSTPORT:]PORT[/PROTOCOL]
	PublishAll bool     // what the image and Expose say
	Expose     []string // PORT[/PROTOCOL]
	IP, IP6    string   // in the first network
	MAC        string
	Aliases    []string // in networks that are not the default one

	DNS, DNSSearch, DNSOptions []string
	AddHosts                   []string // NAME:IP
}

// NetworkSetting is a network that a container is in while it runs.
type NetworkSetting struct {
	Name    string
	ID      string
	IPv4    netip.Addr `json:",omitzero"` // if it was asked for
	IPv6    netip.Addr `json:",omitzero"`
	MAC     string     `json:",omitempty"`
	Aliases []string   `json:",omitempty"`
}

// PortBinding is a port of the host, with Docker's names.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string // "" for any, or a range
}

// networkSettings checks the options, and finds the networks.
func (e *Engine) networkSettings(ctx context.Context, opts *NetworkOptions, host *HostConfig) ([]NetworkSetting, error) {
	names := opts.Networks
	if len(names) == 0 && sys.InUserNamespace() {
		names = []string{NetworkPasta}
	}
	mode, list, err := parseNetworks(names)
	if err != nil {
		return nil, err
	}
	if err := ableTo(mode); err != nil {
		return nil, err
	}
	host.NetworkMode = mode
	if err := checkForMode(mode, opts); err != nil {
		return nil, err
	}
	if key, ok := strings.CutPrefix(mode, networkContainer); ok {
		c, err := e.container(ctx, key)
		if err != nil {
			return nil, err
		}
		host.NetworkMode = networkContainer + c.ID
	}
	if err := setNameOptions(opts, host); err != nil {
		return nil, err
	}
	if host.PortBindings, err = portBindings(opts.Publish); err != nil {
		return nil, err
	}
	host.PublishAllPorts = opts.PublishAll
	for i := range list {
		n, err := e.networks.Find(ctx, list[i].Name)
		if err != nil {
			return nil, err
		}
		list[i].Name, list[i].ID = n.Name, n.ID
	}
	return list, addToFirst(list, opts)
}

// ableTo says what is missing for a kind of network.
func ableTo(mode string) error {
	if _, ok := pastaOptions(mode); ok {
		_, err := pasta.Find()
		return err
	}
	if isNetwork(mode) && sys.InUserNamespace() {
		return fmt.Errorf("%w: network %s: %w", ErrOption, mode, errBridgesAreRoots)
	}
	return nil
}

// errBridgesAreRoots says why a user without root cannot have what takes rights in the host's network namespace.
var errBridgesAreRoots = errors.New("networks of bridges are for root: without, use --network pasta, none, host or container:NAME")

// pastaOptions gives what a network mode says for pasta, if it is that.
func pastaOptions(mode string) (pasta.Options, bool) {
	name, options, _ := strings.Cut(mode, ":")
	return pasta.Parse(options), name == NetworkPasta
}

// isPasta tells whether a network mode is pasta's.
func isPasta(mode string) bool {
	_, ok := pastaOptions(mode)
	return ok
}

// parseNetworks reads the values of --network.
func parseNetworks(values []string) (mode string, list []NetworkSetting, err error) {
	if len(values) == 0 {
		values = []string{network.Default}
	}
	for _, value := range values {
		s, err := parseNetwork(value)
		if err != nil {
			return "", nil, fmt.Errorf("%w: network %q: %w", ErrOption, value, err)
		}
		if slices.ContainsFunc(list, func(other NetworkSetting) bool { return other.Name == s.Name }) {
			return "", nil, fmt.Errorf("%w: network %s is given twice", ErrOption, s.Name)
		}
		list = append(list, s)
	}
	mode = list[0].Name
	for _, s := range list {
		if !isNetwork(s.Name) {
			if len(list) > 1 {
				return "", nil, fmt.Errorf("%w: network %s excludes others", ErrOption, s.Name)
			}
			return mode, nil, nil
		}
	}
	return mode, list, nil
}

// isNetwork tells whether a network mode is a network's name.
func isNetwork(mode string) bool {
	return mode != NetworkNone && mode != NetworkHost && !strings.HasPrefix(mode, networkContainer) && !isPasta(mode)
}

// parseNetwork reads NAME, or NAME and options after a comma, or as Docker has it, name=NAME and those.
func parseNetwork(value string) (NetworkSetting, error) {
	if strings.HasPrefix(value, networkContainer) || isPasta(value) {
		return NetworkSetting{Name: value}, nil
	}
	name, rest, _ := strings.Cut(value, ",")
	var s NetworkSetting
	if strings.Contains(name, "=") {
		name, rest = "", value
	}
	s.Name = name
	if rest == "" && name != "" {
		return s.canonical(), nil
	}
	for option := range strings.SplitSeq(rest, ",") {
		key, v, _ := strings.Cut(option, "=")
		var err error
		switch key {
		case "name":
			s.Name = v
		case "alias":
			s.Aliases = append(s.Aliases, v)
		case "ip":
			s.IPv4, err = parseIP(v, true)
		case "ip6":
			s.IPv6, err = parseIP(v, false)
		case "mac-address":
			s.MAC, err = parseMAC(v)
		default:
			err = fmt.Errorf("option %q: use name, alias, ip, ip6 or mac-address", key)
		}
		if err != nil {
			return s, err
		}
	}
	if s.Name == "" {
		return s, errors.New("it has no name")
	}
	if !isNetwork(s.Name) {
		return s, errors.New("it has no options")
	}
	return s.canonical(), nil
}

func (s NetworkSetting) canonical() NetworkSetting {
	if s.Name == "default" {
		s.Name = network.Default
	}
	return s
}

// checkForMode refuses what the kind of network cannot have.
func checkForMode(mode string, opts *NetworkOptions) error {
	if isNetwork(mode) {
		return nil
	}
	joins, ports := strings.HasPrefix(mode, networkContainer), isPasta(mode)
	for flag, given := range map[string]bool{
		"--publish": !ports && len(opts.Publish) > 0, "--publish-all": !ports && opts.PublishAll, "--ip": opts.IP != "", "--ip6": opts.IP6 != "",
		"--mac-address": opts.MAC != "", "--network-alias": len(opts.Aliases) > 0,
		"--dns": joins && len(opts.DNS)+len(opts.DNSSearch)+len(opts.DNSOptions) > 0, "--add-host": joins && len(opts.AddHosts) > 0,
	} {
		if given {
			return fmt.Errorf("%w: %s needs a network of the container's own, and the network is %s", ErrOption, flag, mode)
		}
	}
	return nil
}

// addToFirst applies the flags that are about the first network, and the aliases.
func addToFirst(list []NetworkSetting, opts *NetworkOptions) (err error) {
	if len(list) == 0 {
		return nil
	}
	if opts.IP != "" {
		if list[0].IPv4, err = parseIP(opts.IP, true); err != nil {
			return fmt.Errorf("%w: --ip: %w", ErrOption, err)
		}
	}
	if opts.IP6 != "" {
		if list[0].IPv6, err = parseIP(opts.IP6, false); err != nil {
			return fmt.Errorf("%w: --ip6: %w", ErrOption, err)
		}
	}
	if opts.MAC != "" {
		if list[0].MAC, err = parseMAC(opts.MAC); err != nil {
			return fmt.Errorf("%w: --mac-address: %w", ErrOption, err)
		}
	}
	for i := range list {
		list[i].Aliases = append(list[i].Aliases, opts.Aliases...)
		if list[i].Name == network.Default && len(list[i].Aliases) > 0 {
			return fmt.Errorf("%w: an alias needs a network of your own ('tarn network create'): in the default one there are no names", ErrOption)
		}
		for _, alias := range list[i].Aliases {
			if !isHostname(alias) {
				return fmt.Errorf("%w: alias %q is no name for a machine", ErrOption, alias)
			}
		}
	}
	return nil
}

func parseIP(text string, v4 bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no IPv%s address", text, map[bool]string{true: "4", false: "6"}[v4])
	}
	return a, nil
}

func parseMAC(text string) (string, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return "", fmt.Errorf("%q is no address of an Ethernet device", text)
	}
	return mac.String(), nil
}

// portBindings reads the values of --publish, and gives them by the container's ports.
func portBindings(values []string) (map[string][]PortBinding, error) {
	bindings := make(map[string][]PortBinding)
	for _, value := range values {
		mappings, err := network.ParsePorts(value)
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			key, b := bindingOf(m)
			if !slices.Contains(bindings[key], b) {
				bindings[key] = append(bindings[key], b)
			}
		}
	}
	return bindings, nil
}

func bindingOf(m network.PortMapping) (key string, b PortBinding) {
	if m.HostIP.IsValid() {
		b.HostIP = m.HostIP.String()
	}
	if m.HostPort != 0 {
		b.HostPort = fmt.Sprint(m.HostPort)
	}
	if m.HostEnd != m.HostPort {
		b.HostPort += fmt.Sprintf("-%d", m.HostEnd)
	}
	return fmt.Sprintf("%d/%s", m.ContainerPort, m.Proto), b
}

// portMappings are the ports to be published of a container: those that were given, and all that are
// exposed, if that is wanted and nothing is given for them.
func portMappings(settings *ContainerSettings) ([]network.PortMapping, error) {
	host := &settings.Host
	var list []network.PortMapping
	for _, key := range sortedPorts(host.PortBindings) {
		for _, b := range host.PortBindings[key] {
			at := ""
			if b.HostIP != "" {
				at = b.HostIP + ":"
				if strings.Contains(b.HostIP, ":") {
					at = "[" + b.HostIP + "]:"
				}
			}
			mappings, err := network.ParsePorts(at + b.HostPort + ":" + key)
			if err != nil {
				return nil, err
			}
			list = append(list, mappings...)
		}
	}
	if !host.PublishAllPorts {
		return list, nil
	}
	for _, key := range sortedPorts(settings.Config.ExposedPorts) {
		exposed, err := network.ParseExposed(key)
		if err != nil {
			return nil, err
		}
		for _, m := range exposed {
			if _, given := host.PortBindings[fmt.Sprintf("%d/%s", m.ContainerPort, m.Proto)]; !given {
				list = append(list, m)
			}
		}
	}
	return list, nil
}

// sortedPorts gives ports ("80/tcp") in the order of their numbers.
func sortedPorts[V any](ports map[string]V) []string {
	keys := make([]string, 0, len(ports))
	for key := range ports {
		keys = append(keys, key)
	}
	number := func(key string) (n int) {
		_, _ = fmt.Sscanf(key, "%d", &n) // 0 if it is none
		return n
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := number(a) - number(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// exposePorts adds the ports of --expose, and those that are published, to what the image says.
func exposePorts(ports map[string]struct{}, opts *NetworkOptions, host *HostConfig) (map[string]struct{}, error) {
	exposed := make(map[string]struct{})
	for key := range ports {
		exposed[key] = struct{}{}
	}
	for key := range host.PortBindings {
		exposed[key] = struct{}{}
	}
	for _, value := range opts.Expose {
		mappings, err := network.ParseExposed(value)
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			key, _ := bindingOf(m)
			exposed[key] = struct{}{}
		}
	}
	if len(exposed) == 0 {
		return nil, nil
	}
	return exposed, nil
}
