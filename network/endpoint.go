package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/network/firewall"
	"github.com/tarnfs/tarn/network/link"
)

// Endpoint is a container's place in a network. Its file is called as its address, and another name of it
// as its address of IPv6.
type Endpoint struct {
	Container string      `json:"container"` // ID
	Name      string      `json:"name"`      // of the container
	Network   string      `json:"network"`   // ID
	Device    string      `json:"device"`    // the host's end of the link
	Interface string      `json:"interface"` // the container's
	MAC       string      `json:"mac"`
	IPv4      netip.Addr  `json:"ipv4"`
	IPv6      netip.Addr  `json:"ipv6,omitzero"`
	Names     []string    `json:"names,omitempty"` // that other containers of the network know it by
	Ports     []Published `json:"ports,omitempty"`
}

// ID names the endpoint: there is one for each container in each network.
func (e *Endpoint) ID() string {
	sum := sha256.Sum256([]byte(e.Container + e.Network))
	return hex.EncodeToString(sum[:])
}

// Published is a port of the host that leads to a container.
type Published struct {
	HostIP        netip.Addr `json:"host_ip"` // unspecified: all of that family
	HostPort      uint16     `json:"host_port"`
	ContainerPort uint16     `json:"container_port"`
	Proto         string     `json:"proto"` // "tcp", "udp" or "sctp"
}

// claim makes an endpoint's file under addresses that nobody else has: the wanted ones, else the first
// that are free. The network's directory is locked.
func (ns *Networks) claim(n *Network, e *Endpoint, want4, want6 netip.Addr) (err error) {
	f, err := atomicfile.CreateTemp(ns.runDir(n), 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.Remove(f.Name()), f.Close()) // it has its other names now
	}()
	if err := ns.claim4(n, e, f, want4); err != nil {
		return err
	}
	if err := ns.claim6(n, e, f, want6); err != nil {
		return errors.Join(err, unlink(ns.runDir(n), e))
	}
	ns.noteGiven(n, e.IPv4)
	return nil
}

func (ns *Networks) claim4(n *Network, e *Endpoint, f *os.File, want netip.Addr) error {
	subnet := n.IPv4()
	if err := checkWanted(subnet, want); err != nil {
		return err
	}
	ownMAC := e.MAC == ""
	for a := range wantedOr(want, subnet.candidates(ns.lastGiven(n))) {
		e.IPv4 = a
		if ownMAC {
			e.MAC = link.MAC(a).String()
		}
		if err := overwrite(f, e); err != nil {
			return err
		}
		if linked, err := ns.linkAs(n, f, a); err != nil || linked {
			return err
		}
	}
	if want.IsValid() {
		return fmt.Errorf("address %s is %w", want, ErrTaken)
	}
	return fmt.Errorf("network %s: all addresses of %s are %w", n.Name, subnet.Subnet, ErrTaken)
}

func (ns *Networks) claim6(n *Network, e *Endpoint, f *os.File, want netip.Addr) error {
	subnet, ok := n.IPv6()
	if !ok && want.IsValid() {
		return fmt.Errorf("%w: address %s: network %s has no IPv6", ErrInvalid, want, n.Name)
	}
	if !ok {
		return nil
	}
	if err := checkWanted(subnet, want); err != nil {
		return err
	}
	for a := range wantedOr(want, subnet.candidates(subnet.beside(e.IPv4, n.IPv4().Subnet).Prev())) {
		e.IPv6 = a
		if err := overwrite(f, e); err != nil {
			return err
		}
		if linked, err := ns.linkAs(n, f, a); err != nil || linked {
			return err
		}
	}
	e.IPv6 = netip.Addr{}
	return fmt.Errorf("address %s is %w", want, ErrTaken)
}

func wantedOr(want netip.Addr, otherwise func(func(netip.Addr) bool)) func(func(netip.Addr) bool) {
	if !want.IsValid() {
		return otherwise
	}
	return func(yield func(netip.Addr) bool) { yield(want) }
}

func checkWanted(s Subnet, want netip.Addr) error {
	if want.IsValid() && (!s.usable(want) || want == s.Gateway) {
		return fmt.Errorf("%w: address %s is not to be had in subnet %s", ErrInvalid, want, s.Subnet)
	}
	return nil
}

// linkAs gives a file an address's name, unless there is one of that name. What a dead container left is
// in nobody's way.
func (ns *Networks) linkAs(n *Network, f *os.File, a netip.Addr) (bool, error) {
	path := filepath.Join(ns.runDir(n), a.String())
	for range 2 {
		err := os.Link(f.Name(), path)
		if !errors.Is(err, fs.ErrExist) {
			return err == nil, err
		}
		e, err := readEndpoint(path)
		if err != nil || e != nil && ns.kept(e.Container) {
			return false, err
		}
		if e == nil {
			continue // it is gone
		}
		if err := ns.collectKeeper(filepath.Join(ns.keepers(), e.Container)); err != nil {
			return false, err
		}
		if err := ns.removeEndpoints(n.ID, e.Container); err != nil {
			return false, err
		}
	}
	return false, nil
}

// overwrite writes v in place of what a file says. The file stays the same, for its lock. Who reads meanwhile sees what was
// before, or what is now: longer or not, what follows is blank.
func overwrite(f *os.File, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if blank := int(info.Size()) - len(data) - 1; blank > 0 {
		data = append(data, strings.Repeat(" ", blank)...)
	}
	_, err = f.WriteAt(append(data, '\n'), 0)
	return err
}

// rewrite changes an endpoint's file.
func (ns *Networks) rewrite(e *Endpoint) error {
	f, err := os.OpenFile(filepath.Join(ns.run, e.Network, e.IPv4.String()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(overwrite(f, e), f.Close())
}

// unlink removes the names of an endpoint's file, that of its address of IPv4 last: by that it is found.
func unlink(dir string, e *Endpoint) error {
	var errs []error
	for _, a := range []netip.Addr{e.IPv6, e.IPv4} {
		if !a.IsValid() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, a.String())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove takes an endpoint away: its ports first, since they lead to an address that somebody else can
// have when its file is gone.
func (ns *Networks) remove(e *Endpoint) error {
	if err := firewall.Unpublish(e.rules()); err != nil {
		return err
	}
	return unlink(filepath.Join(ns.run, e.Network), e)
}

// removeEndpoints takes away a dead container's endpoints in a network, with what may be left of its link.
func (ns *Networks) removeEndpoints(network, container string) error {
	all, err := ns.allEndpoints(network)
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Container != container {
			continue
		}
		if err := link.Disconnect(all[i].Device); err != nil {
			return err
		}
		if err := ns.remove(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

// lastGiven and noteGiven remember the address that was given last: the next container gets the one
// after it, so that it does not meet what is left of one that just ended.
func (ns *Networks) lastGiven(n *Network) netip.Addr {
	text, err := os.ReadFile(filepath.Join(ns.runDir(n), lastFile))
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.TrimSpace(string(text)))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// noteGiven: that a note is lost does no harm.
func (ns *Networks) noteGiven(n *Network, a netip.Addr) {
	_ = os.WriteFile(filepath.Join(ns.runDir(n), lastFile), []byte(a.String()+"\n"), 0o600)
}

const lastFile = "last"

// Endpoints lists the endpoints of a network's containers, by their addresses; of those that are dead,
// none.
func (ns *Networks) Endpoints(n *Network) ([]Endpoint, error) {
	all, err := ns.allEndpoints(n.ID)
	return slices.DeleteFunc(all, func(e Endpoint) bool { return !ns.kept(e.Container) }), err
}

func (ns *Networks) allEndpoints(network string) ([]Endpoint, error) {
	dir := filepath.Join(ns.run, network)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Endpoint
	for _, entry := range entries {
		if a, err := netip.ParseAddr(entry.Name()); err != nil || !a.Is4() {
			continue
		}
		e, err := readEndpoint(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		if e != nil {
			list = append(list, *e)
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return a.IPv4.Compare(b.IPv4) })
	return list, nil
}

// maxEndpoint bounds an endpoint's file: with 10,000 ports it has less.
const maxEndpoint = 4 << 20

// readEndpoint gives nil if there is none.
func readEndpoint(path string) (*Endpoint, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEndpoint))
	if err != nil {
		return nil, err
	}
	e := &Endpoint{}
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return e, nil
}

// rules are the endpoint's ports as the packet filter knows them.
func (e *Endpoint) rules() []firewall.Port {
	var list []firewall.Port
	for _, p := range e.Ports {
		to := e.IPv4
		if p.HostIP.Is6() {
			to = e.IPv6
		}
		if to.IsValid() {
			list = append(list, firewall.Port{
				HostIP: p.HostIP, HostPort: p.HostPort, Proto: protocols()[p.Proto], To: netip.AddrPortFrom(to, p.ContainerPort),
			})
		}
	}
	return list
}

// protocols are those that have ports, with their numbers (IPPROTO_* of linux/in.h).
func protocols() map[string]uint8 { return map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132} }

// hardwareAddr is the container's.
func (e *Endpoint) hardwareAddr() net.HardwareAddr {
	mac, _ := net.ParseMAC(e.MAC) // as it was written
	return mac
}
