package network //nolint:testpackage // addresses are nobody else's business

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestLast(t *testing.T) {
	for p, want := range map[string]string{
		"10.1.0.0/16": "10.1.255.255", "10.1.2.4/30": "10.1.2.7", "1.2.3.4/32": "1.2.3.4", "fd00::/64": "fd00::ffff:ffff:ffff:ffff",
	} {
		require.Equal(t, want, last(netip.MustParsePrefix(p)).String())
	}
}

func TestFreeSubnetOverlapsWithNothing(t *testing.T) {
	got, err := freeSubnet(nil)
	require.NoError(t, err)
	require.Equal(t, "172.18.0.0/16", got.String())
	got, err = freeSubnet(prefixes("172.18.5.0/24", "172.16.0.0/14"))
	require.NoError(t, err)
	require.Equal(t, "172.20.0.0/16", got.String())
	_, err = freeSubnet(prefixes("172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"))
	require.ErrorIs(t, err, ErrTaken)
}

func TestCandidates(t *testing.T) {
	subnet := Subnet{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: netip.MustParseAddr("10.0.0.1")}
	list := func(s Subnet, after string) string {
		a, _ := netip.ParseAddr(after)
		var words []string
		for c := range s.candidates(a) {
			words = append(words, c.String()[strings.LastIndexAny(c.String(), ".:")+1:])
		}
		return strings.Join(words, " ")
	}
	require.Equal(t, "2 3 4 5 6", list(subnet, ""))
	require.Equal(t, "5 6 2 3 4", list(subnet, "10.0.0.4"))
	require.Equal(t, "2 3 4 5 6", list(subnet, "10.0.0.6")) // neither 7, all of it, nor 0
	require.Equal(t, "2 3 4 5 6", list(subnet, "10.9.9.9"))
	subnet.Range = netip.MustParsePrefix("10.0.0.4/31")
	require.Equal(t, "4 5", list(subnet, ""))
	require.Equal(t, "4 5", list(subnet, "10.0.0.5"))
	all := Subnet{Subnet: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("0.0.0.1")}
	for a := range all.candidates(netip.MustParseAddr("255.255.255.255")) {
		require.Equal(t, "0.0.0.2", a.String())
		break
	}
}

// TestBeside: a container has the same number in both of its subnets.
func TestBeside(t *testing.T) {
	v4 := netip.MustParsePrefix("172.18.0.0/16")
	s := Subnet{Subnet: netip.MustParsePrefix("fd00:1::/64")}
	require.Equal(t, "fd00:1::203", s.beside(netip.MustParseAddr("172.18.2.3"), v4).String())
}

func TestRecordsAreChecked(t *testing.T) {
	good := func() *Network {
		return &Network{
			Name: "net", Driver: "bridge", Device: "tarn1",
			Subnets: []Subnet{{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}},
		}
	}
	require.NoError(t, good().check())
	six := Subnet{Subnet: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")}
	for name, spoil := range map[string]func(n *Network){
		"no name":             func(n *Network) { n.Name = "" },
		"a path":              func(n *Network) { n.Name = "../x" },
		"a mode":              func(n *Network) { n.Name = "host" },
		"driver":              func(n *Network) { n.Driver = "macvlan" },
		"device with a slash": func(n *Network) { n.Device = "a/b" },
		"long device":         func(n *Network) { n.Device = strings.Repeat("x", 16) },
		"no subnet":           func(n *Network) { n.Subnets = nil },
		"two of IPv4":         func(n *Network) { n.Subnets = append(n.Subnets, n.Subnets[0]) },
		"two of IPv6":         func(n *Network) { n.Subnets = append(n.Subnets, six, six) },
		"gateway elsewhere":   func(n *Network) { n.Subnets[0].Gateway = netip.MustParseAddr("10.0.1.1") },
		"gateway of all":      func(n *Network) { n.Subnets[0].Gateway = netip.MustParseAddr("10.0.0.255") },
		"range elsewhere":     func(n *Network) { n.Subnets[0].Range = netip.MustParsePrefix("10.1.0.0/24") },
		"no room":             func(n *Network) { n.Subnets[0].Subnet = netip.MustParsePrefix("10.0.0.0/31") },
		"host bits":           func(n *Network) { n.Subnets[0].Subnet = netip.MustParsePrefix("10.0.0.5/24") },
		"unknown option":      func(n *Network) { n.Options = map[string]string{"x": "y"} },
		"bad MTU":             func(n *Network) { n.Options = map[string]string{"mtu": "12"} },
		"bad icc":             func(n *Network) { n.Options = map[string]string{optICC: "maybe"} },
	} {
		n := good()
		spoil(n)
		require.ErrorIs(t, n.check(), ErrInvalid, name)
	}
}

func TestParseResolv(t *testing.T) {
	r := ParseResolv(strings.NewReader("# c\nnameserver 1.2.3.4\nnameserver fe80::1%eth0\nnameserver nonsense\n" +
		"domain a.example\nsearch b.example c.example\noptions ndots:2\noptions edns0\nsortlist x\n\n"))
	require.Equal(t, "nameserver 1.2.3.4\nnameserver fe80::1%eth0\nsearch b.example c.example\noptions ndots:2 edns0\n", r.String())
	require.True(t, r.OfHostOnly())
	require.False(t, ParseResolv(strings.NewReader("nameserver 8.8.8.8\n")).OfHostOnly())
	require.True(t, ParseResolv(strings.NewReader("nameserver 8.8.8.8\nnameserver 127.0.0.53\n")).OfHostOnly())
}
