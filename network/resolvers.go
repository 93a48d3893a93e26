package network

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Resolv is what resolv.conf(5) says.
type Resolv struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// maxResolv bounds what is read of a resolv.conf.
const maxResolv = 64 << 10

// ParseResolv reads a resolv.conf. What it does not know it passes over, as the C library does.
func ParseResolv(r io.Reader) Resolv {
	var c Resolv
	lines := bufio.NewScanner(io.LimitReader(r, maxResolv))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				c.Servers = append(c.Servers, a)
			}
		case "domain":
			c.Search = words[1:2]
		case "search":
			c.Search = words[1:]
		case "options":
			c.Options = append(c.Options, words[1:]...)
		}
	}
	return c
}

// HostResolv reads the host's. One that is not there is empty.
func HostResolv() Resolv {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return Resolv{}
	}
	defer f.Close()
	return ParseResolv(f)
}

// HostResolvers are the name servers that the host asks.
func HostResolvers() []netip.Addr { return HostResolv().Servers }

// String writes it as a file.
func (c Resolv) String() string {
	var b strings.Builder
	for _, a := range c.Servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(c.Search) > 0 {
		b.WriteString("search " + strings.Join(c.Search, " ") + "\n")
	}
	if len(c.Options) > 0 {
		b.WriteString("options " + strings.Join(c.Options, " ") + "\n")
	}
	return b.String()
}

// OfHostOnly tells whether some of the servers can be reached from the host only, and not from a network
// namespace of a container's.
func (c Resolv) OfHostOnly() bool {
	return slices.ContainsFunc(c.Servers, func(a netip.Addr) bool { return a.Unmap().IsLoopback() || a.Zone() != "" })
}
