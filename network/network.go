// Package network gives containers networks: it keeps what networks there are, gives addresses and ports to
// containers, and has package link make their links and package firewall the rules for them. It knows
// containers by their IDs and network namespaces only.
//
// There is no daemon. A network is a record on disk; what a container has of it is a file that the process
// that takes care of the container holds a lock on (its keeper). Whose keeper is gone has nothing any
// more, and whoever comes next takes away what is left: see [Networks.Collect]. docs/format.md specifies
// the files.
package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
	"github.com/tarnfs/tarn/network/firewall"
	"github.com/tarnfs/tarn/network/link"
)

var (
	// ErrNotFound is wrapped by errors about a network that is not there.
	ErrNotFound = errors.New("no such network")
	// ErrExists is wrapped when a name is taken.
	ErrExists = errors.New("network exists")
	// ErrInUse is wrapped when a network has containers.
	ErrInUse = errors.New("network has active endpoints")
	// ErrInvalid is wrapped by errors about what was asked for.
	ErrInvalid = errors.New("bad network option")
	// ErrTaken is wrapped when a port or an address is another's.
	ErrTaken = errors.New("already allocated")
	// ErrUnable is wrapped when this machine, or what this program may do on it, does not suffice.
	ErrUnable = errors.New("networks cannot be set up")
)

// Default is the name of the network of containers that ask for none. It is made when it is first used.
const Default = "bridge"

// Networks are the networks of a store.
type Networks struct {
	dir string // of records
	run string // of endpoints, a directory for each network
}

// New gives the networks whose records are in dir, and whose state, which a reboot takes away, is in run.
func New(dir, run string) *Networks { return &Networks{dir: dir, run: run} }

// Network is the record of a network.
type Network struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Created  time.Time         `json:"created"`
	Driver   string            `json:"driver"`
	Device   string            `json:"device"` // the bridge
	Internal bool              `json:"internal,omitempty"`
	Subnets  []Subnet          `json:"subnets"` // one of IPv4, and at most one of IPv6
	Labels   map[string]string `json:"labels,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
}

// Subnet is a range of addresses.
type Subnet struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`          // the host's address
	Range   netip.Prefix `json:"range,omitzero"`   // where containers' addresses are from; else all of the subnet
	Chosen  bool         `json:"chosen,omitempty"` // by the user
}

// Options of networks, with Docker's names.
const (
	optBridgeName  = "com.docker.network.bridge.name"
	optMTU         = "com.docker.network.driver.mtu"
	optICC         = "com.docker.network.bridge.enable_icc"
	optMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	optMTUShort    = "mtu"
)

// IPv4 is the subnet of IPv4.
func (n *Network) IPv4() Subnet {
	i := slices.IndexFunc(n.Subnets, func(s Subnet) bool { return s.Subnet.Addr().Is4() })
	return n.Subnets[i]
}

// IPv6 is the subnet of IPv6, if there is one.
func (n *Network) IPv6() (Subnet, bool) {
	i := slices.IndexFunc(n.Subnets, func(s Subnet) bool { return s.Subnet.Addr().Is6() })
	if i < 0 {
		return Subnet{}, false
	}
	return n.Subnets[i], true
}

// Resolves tells whether the network's containers find each other by name: as with Docker, they do in all
// but the default network.
func (n *Network) Resolves() bool { return n.Name != Default }

// check says what is wrong with a record: of one that was read, nothing is used unchecked.
func (n *Network) check() error {
	switch {
	case !validName(n.Name):
		return fmt.Errorf("%w: name %q: use letters, digits, '_', '.' and '-'", ErrInvalid, n.Name)
	case slices.Contains([]string{"none", "host", "default", "container", "pasta"}, n.Name):
		return fmt.Errorf("%w: name %q has a meaning of its own", ErrInvalid, n.Name)
	case n.Driver != "bridge":
		return fmt.Errorf("%w: driver %q: there is only bridge", ErrInvalid, n.Driver)
	case n.Device == "" || len(n.Device) > 15 || n.Device == "." || n.Device == ".." || strings.ContainsAny(n.Device, "/ \t\n:%"):
		return fmt.Errorf("%w: %q is no name for a device", ErrInvalid, n.Device)
	}
	count := map[bool]int{}
	for _, s := range n.Subnets {
		if err := s.check(); err != nil {
			return err
		}
		count[s.Subnet.Addr().Is4()]++
	}
	if count[true] != 1 || count[false] > 1 {
		return fmt.Errorf("%w: a network has one subnet of IPv4, and at most one of IPv6", ErrInvalid)
	}
	return n.checkOptions()
}

// validName tells whether a network can be called so: Docker's rule, and no longer than file names may be.
func validName(name string) bool {
	other := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-'
	}
	return name != "" && len(name) <= 128 && !strings.ContainsFunc(name, other) && !strings.ContainsAny(name[:1], "_.-")
}

func (n *Network) checkOptions() error {
	for key, value := range n.Options {
		var err error
		switch key {
		case optBridgeName:
		case optMTU, optMTUShort:
			if mtu, numErr := strconv.Atoi(value); numErr != nil || mtu < 68 || mtu > 65535 {
				err = fmt.Errorf("%q is no MTU", value)
			}
		case optICC, optMasquerade:
			_, err = strconv.ParseBool(value)
		case optHostBinding:
			_, err = netip.ParseAddr(value)
		default:
			err = errors.New("it is not known")
		}
		if err != nil {
			return fmt.Errorf("%w: --opt %s: %w", ErrInvalid, key, err)
		}
	}
	return nil
}

func (s Subnet) check() error {
	switch {
	case !s.Subnet.IsValid() || s.Subnet != s.Subnet.Masked() || s.Subnet.Addr().Is4In6():
		return fmt.Errorf("%w: subnet %s: use for instance 10.1.0.0/16", ErrInvalid, s.Subnet)
	case s.Subnet.Addr().BitLen()-s.Subnet.Bits() < 2:
		return fmt.Errorf("%w: subnet %s has no room for containers", ErrInvalid, s.Subnet)
	case !s.Subnet.Contains(s.Gateway) || !s.usable(s.Gateway):
		return fmt.Errorf("%w: gateway %s is not in subnet %s", ErrInvalid, s.Gateway, s.Subnet)
	case s.Range.IsValid() && (!s.Subnet.Contains(s.Range.Addr()) || s.Range.Bits() < s.Subnet.Bits()):
		return fmt.Errorf("%w: range %s is not in subnet %s", ErrInvalid, s.Range, s.Subnet)
	}
	return nil
}

// usable tells whether an address can be somebody's: not the network's own, nor, of IPv4, all of it.
func (s Subnet) usable(a netip.Addr) bool {
	return s.Subnet.Contains(a) && a != s.Subnet.Addr() && (a.Is6() || a != last(s.Subnet))
}

// boolOption is an option that was checked before.
func (n *Network) boolOption(key string, otherwise bool) bool {
	b, err := strconv.ParseBool(n.Options[key])
	if err != nil {
		return otherwise
	}
	return b
}

// bridge: unless it was chosen, the MTU is that of the way out, where larger packets would be lost.
func (n *Network) bridge() *link.Bridge {
	mtu, _ := strconv.Atoi(cmp.Or(n.Options[optMTU], n.Options[optMTUShort])) // it was checked
	b := &link.Bridge{Name: n.Device, Alias: "tarn " + n.ID, MTU: mtu}
	for _, s := range n.Subnets {
		b.Addresses = append(b.Addresses, netip.PrefixFrom(s.Gateway, s.Subnet.Bits()))
	}
	return b
}

func (n *Network) rules() firewall.Network {
	rules := firewall.Network{ID: n.ID[:12], Bridge: n.Device, Internal: n.Internal, Masquerade: n.boolOption(optMasquerade, true)}
	for _, s := range n.Subnets {
		rules.Subnets = append(rules.Subnets, s.Subnet)
	}
	return rules
}

// useOwnDevice gives the default network another device, since another store's was quicker.
func (ns *Networks) useOwnDevice(n *Network) error {
	n.Device = ownDevice(n)
	data, err := sealed.Encode(n)
	if err == nil {
		err = atomicfile.Write(ns.recordPath(n.Name), data, 0o600)
	}
	if err != nil {
		return err
	}
	return n.bridge().Ensure()
}

// ensure makes of the network what a reboot, or somebody else, took away.
func (ns *Networks) ensure(n *Network) error {
	err := n.bridge().Ensure()
	if errors.Is(err, link.ErrForeign) && n.Name == Default && n.Device == defaultDevice {
		err = ns.useOwnDevice(n)
	}
	if err != nil {
		return unable(err)
	}
	if !n.Internal {
		if err := forward(n); err != nil {
			return unable(err)
		}
	}
	made, err := firewall.Ensure(n.rules())
	if err != nil || !made {
		return unable(err)
	}
	return ns.republish()
}

// forward lets the host pass packets on. Docker does so for IPv4 in any case, and for IPv6 where a
// network has it.
func forward(n *Network) error {
	if err := link.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if _, v6 := n.IPv6(); v6 {
		return link.Forward6()
	}
	return nil
}

// unable marks what the machine cannot do.
func unable(err error) error {
	if errors.Is(err, link.ErrUnable) || errors.Is(err, firewall.ErrUnable) || errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrUnable, err)
	}
	return err
}

// republish makes anew what the packet filter lost: somebody has flushed it.
func (ns *Networks) republish() error {
	all, err := ns.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range all {
		endpoints, err := ns.Endpoints(n)
		if err != nil || len(endpoints) == 0 {
			errs = append(errs, err)
			continue
		}
		if _, err := firewall.Ensure(n.rules()); err != nil {
			return unable(err)
		}
		for _, e := range endpoints {
			errs = append(errs, unable(firewall.Publish(e.rules())))
		}
	}
	return errors.Join(errs...)
}
