package dns

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tarnfs/tarn/internal/sys"
)

// Zone are the names of a container's networks. They are read from the files that package network keeps
// (docs/format.md), so that a name is there, or gone, as soon as its container is.
type Zone struct {
	Run       string // the directory of networks' directories, and of that of containers' files
	Container string // whose networks these are

	mu     sync.Mutex
	tables map[string]table // by networks' IDs
}

// Memberships is what a container's file says: in which networks it is.
type Memberships struct {
	Networks []Membership `json:"networks"`
}

// Membership is a network of a container's.
type Membership struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Resolves bool   `json:"resolves,omitempty"` // its containers know each other by name
	Internal bool   `json:"internal,omitempty"` // it leads nowhere else
}

// Kept tells whether a container has a keeper: somebody holds a lock on its file in that directory.
func Kept(keepers, container string) bool {
	f, err := os.Open(filepath.Join(keepers, container))
	if err != nil {
		return false
	}
	defer f.Close()
	free, err := sys.TryFlock(f, false)
	return err == nil && !free
}

// endpoint is what is read of an endpoint's file; docs/format.md has all of it.
type endpoint struct {
	Container string     `json:"container"`
	Name      string     `json:"name"`
	Names     []string   `json:"names"`
	IPv4      netip.Addr `json:"ipv4"`
	IPv6      netip.Addr `json:"ipv6"`
}

// table is what a directory said when it was read.
type table struct {
	read      time.Time
	changed   time.Time // the directory's time then
	endpoints []endpoint
}

const (
	maxEndpoint = 4 << 20
	// settled is the age of a directory's time from which on it cannot change without being seen: the
	// kernel's clock for files has ticks of at most 10 ms.
	settled    = 50 * time.Millisecond
	maxAnswers = 64
)

// records gives the answer to a question about a container, and whether it is about one.
func (z *Zone) records(q dnsmessage.Question) (list []dnsmessage.Resource, known bool) {
	if z == nil || q.Class != dnsmessage.ClassINET {
		return nil, false
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if a, ok := reverse(name); ok {
		return z.pointer(q, a)
	}
	addresses := z.lookup(name)
	for _, a := range addresses[:min(len(addresses), maxAnswers)] {
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class} // TTL 0: it may change at any time
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			list = append(list, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			list = append(list, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return list, len(addresses) > 0
}

// lookup gives the addresses of all containers of a name: "web", or "web.network".
func (z *Zone) lookup(name string) []netip.Addr {
	var list []netip.Addr
	for _, n := range z.networks() {
		short := strings.TrimSuffix(name, "."+strings.ToLower(n.Name))
		known := func(other string) bool { return strings.EqualFold(other, name) || strings.EqualFold(other, short) }
		for _, e := range z.table(n.ID) {
			if !slices.ContainsFunc(e.Names, known) || !z.kept(e.Container) {
				continue
			}
			for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
				if a.IsValid() {
					list = append(list, a)
				}
			}
		}
	}
	return list
}

// pointer names who has an address.
func (z *Zone) pointer(q dnsmessage.Question, a netip.Addr) ([]dnsmessage.Resource, bool) {
	for _, n := range z.networks() {
		for _, e := range z.table(n.ID) {
			if e.IPv4 != a && e.IPv6 != a || len(e.Names) == 0 || !z.kept(e.Container) {
				continue
			}
			name, err := dnsmessage.NewName(e.Name + "." + n.Name + ".")
			if err != nil || q.Type != dnsmessage.TypePTR {
				return nil, true
			}
			header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
			return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.PTRResource{PTR: name}}}, true
		}
	}
	return nil, false
}

func (z *Zone) kept(container string) bool { return Kept(z.keepers(), container) }

// keepers is the directory of containers' files.
func (z *Zone) keepers() string { return filepath.Join(z.Run, "containers") }

// networks are those of the container in which there are names.
func (z *Zone) networks() []Membership {
	data, err := os.ReadFile(filepath.Join(z.keepers(), z.Container))
	if err != nil {
		return nil
	}
	var m Memberships
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	return slices.DeleteFunc(m.Networks, func(n Membership) bool { return !n.Resolves })
}

// table reads a network's directory, unless it is as it was.
func (z *Zone) table(network string) []endpoint {
	z.mu.Lock()
	defer z.mu.Unlock()
	dir := filepath.Join(z.Run, network)
	info, err := os.Stat(dir)
	if err != nil {
		return nil
	}
	t := z.tables[network]
	if info.ModTime().Equal(t.changed) && t.read.Sub(t.changed) > settled {
		return t.endpoints
	}
	if z.tables == nil {
		z.tables = make(map[string]table)
	}
	t = table{read: time.Now(), changed: info.ModTime(), endpoints: readEndpoints(dir)}
	z.tables[network] = t
	return t.endpoints
}

// readEndpoints reads the files that are called as an address of IPv4.
func readEndpoints(dir string) []endpoint {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var endpoints []endpoint
	for _, entry := range entries {
		if a, err := netip.ParseAddr(entry.Name()); err != nil || !a.Is4() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue
		}
		var e endpoint
		if json.NewDecoder(io.LimitReader(f, maxEndpoint)).Decode(&e) == nil {
			endpoints = append(endpoints, e)
		}
		_ = f.Close()
	}
	return endpoints
}

// reverse gives the address that a name below in-addr.arpa or ip6.arpa is about.
func reverse(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	digits := strings.Split(labels, ".")
	if !ok || len(digits) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, d := range digits {
		n, err := strconv.ParseUint(d, 16, 4)
		if err != nil || len(d) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
