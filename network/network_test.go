package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/network/link"
	"github.com/tarnfs/tarn/network/proxy"
)

func TestMain(m *testing.M) {
	testenv.InOwnNetwork()
	os.Exit(m.Run())
}

// host is a machine with networks: this test program's own network namespace.
type host struct {
	*network.Networks
	t   *testing.T
	dir string
}

func newHost(t *testing.T) *host {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "nft", "ip")
	dir := t.TempDir()
	h := &host{network.New(filepath.Join(dir, "records"), filepath.Join(dir, "run")), t, dir}
	t.Cleanup(func() {
		list, err := h.List()
		require.NoError(t, err)
		for _, n := range list {
			if n.Name != network.Default {
				_, err = h.Remove(t.Context(), n.Name)
				if !errors.Is(err, network.ErrInUse) { // by a keeper that the test has not closed
					require.NoError(t, err)
				}
			}
		}
	})
	return h
}

func (h *host) create(name string, opts network.CreateOptions) *network.Network {
	h.t.Helper()
	opts.Name = name
	n, err := h.Create(h.t.Context(), opts)
	require.NoError(h.t, err)
	return n
}

// namespace is a container's.
func namespace(t *testing.T) *os.File {
	t.Helper()
	result := make(chan *os.File, 1)
	sys.OnOwnThread(func() {
		var f *os.File
		if sys.Unshare(sys.NewNet) == nil && sys.LoopbackUp() == nil {
			f, _ = sys.ThreadNetworkNamespace()
		}
		result <- f
	})
	f := <-result
	require.NotNil(t, f)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// moveTo gives a device to a namespace.
func moveTo(t *testing.T, ns *os.File, device string) {
	t.Helper()
	output(t, "ip", "link", "set", device, "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
}

// in runs a program in a container's namespace.
func in(t *testing.T, ns *os.File, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=/proc/self/fd/3"}, args...)...)
	cmd.ExtraFiles = []*os.File{ns}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func id(n byte) string { return strings.Repeat(string([]byte{'0' + n/10, '0' + n%10}), 32) }

func (h *host) attach(n byte, ports []network.PortMapping, requests ...network.Request) (*network.Attachment, error) {
	return h.Attach(h.t.Context(), network.Sandbox{Container: id(n), Name: "c" + id(n)[:2]}, requests, ports)
}

func (h *host) mustAttach(n byte, ports []network.PortMapping, requests ...network.Request) *network.Attachment {
	h.t.Helper()
	a, err := h.attach(n, ports, requests...)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = a.Close() })
	return a
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestContainerReachesItsNeighbourAndItsHost(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{IPv6: true})
	one, two := h.mustAttach(1, nil, network.Request{Network: n}), h.mustAttach(2, nil, network.Request{Network: n})
	ns1, ns2 := namespace(t), namespace(t)
	require.NoError(t, one.Connect(ns1))
	require.NoError(t, two.Connect(ns2))
	v6, ok := n.IPv6()
	require.True(t, ok)
	for _, a := range []netip.Addr{two.Endpoints()[0].IPv4, two.Endpoints()[0].IPv6, n.IPv4().Gateway, v6.Gateway} {
		in(t, ns1, "busybox", "ping", "-c", "1", "-W", "5", a.String())
	}
	require.Contains(t, in(t, ns1, "ip", "route"), "default via "+n.IPv4().Gateway.String()+" dev eth0")
	require.Contains(t, in(t, ns1, "ip", "-6", "route"), "default via "+v6.Gateway.String()+" dev eth0")
}

// TestAddressesAreGivenOnce also to many who come at once.
func TestAddressesAreGivenOnce(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{Subnets: []network.SubnetAsk{{Subnet: netip.MustParsePrefix("10.77.0.0/28")}}})
	given := make(map[netip.Addr]bool)
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range byte(13) {
		all.Go(func() {
			a := h.mustAttach(i, nil, network.Request{Network: n})
			mu.Lock()
			defer mu.Unlock()
			given[a.Endpoints()[0].IPv4] = true
		})
	}
	all.Wait()
	require.Len(t, given, 13)
	_, err := h.attach(20, nil, network.Request{Network: n})
	require.ErrorIs(t, err, network.ErrTaken)
	places, err := h.Endpoints(n)
	require.NoError(t, err)
	require.Len(t, places, 13)
}

func TestWantedAddresses(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{Subnets: []network.SubnetAsk{
		{Subnet: netip.MustParsePrefix("10.77.0.0/24")}, {Subnet: netip.MustParsePrefix("fd77::/64")},
	}})
	want := network.Request{Network: n, IPv4: netip.MustParseAddr("10.77.0.9"), IPv6: netip.MustParseAddr("fd77::99")}
	a := h.mustAttach(1, nil, want)
	require.Equal(t, want.IPv4, a.Endpoints()[0].IPv4)
	require.Equal(t, want.IPv6, a.Endpoints()[0].IPv6)
	_, err := h.attach(2, nil, want)
	require.ErrorContains(t, err, "address 10.77.0.9 is already allocated")
	// Of which nothing is left: the address of IPv4 is free again, though that of IPv6 is not.
	half := network.Request{Network: n, IPv4: netip.MustParseAddr("10.77.0.10"), IPv6: want.IPv6}
	_, err = h.attach(2, nil, half)
	require.ErrorContains(t, err, "address fd77::99 is already allocated")
	half.IPv6 = netip.Addr{}
	h.mustAttach(2, nil, half)
	for _, bad := range []string{"10.78.0.1", "10.77.0.0", "10.77.0.255", "10.77.0.1"} {
		_, err = h.attach(3, nil, network.Request{Network: n, IPv4: netip.MustParseAddr(bad)})
		require.ErrorIs(t, err, network.ErrInvalid, bad)
	}
}

// TestWhatADeadKeeperLeaves is collected: its address, port and rules are free for the next.
func TestWhatADeadKeeperLeaves(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{Subnets: []network.SubnetAsk{{Subnet: netip.MustParsePrefix("10.77.0.0/24")}}})
	ports, err := network.ParsePorts("18080:80")
	require.NoError(t, err)
	want := network.Request{Network: n, IPv4: netip.MustParseAddr("10.77.0.5")}
	dead := h.mustAttach(1, ports, want)
	require.NoError(t, dead.Connect(namespace(t)))
	device := dead.Endpoints()[0].Device
	require.Contains(t, output(t, "nft", "list", "map", "inet", "tarn", "published4"), "tcp . 18080 : 10.77.0.5 . 80")
	network.Abandon(dead)
	places, err := h.Endpoints(n)
	require.NoError(t, err)
	require.Empty(t, places)

	// Somebody who wants the same gets it.
	next := h.mustAttach(2, ports, want)
	require.Contains(t, output(t, "nft", "list", "map", "inet", "tarn", "published4"), "tcp . 18080 : 10.77.0.5 . 80")
	require.NotContains(t, output(t, "ip", "link"), device)
	network.Abandon(next)
	require.NoError(t, h.Collect())
	require.NotContains(t, output(t, "nft", "list", "ruleset"), "18080")
	left, err := filepath.Glob(filepath.Join(h.dir, "run", "*", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(h.dir, "run", n.ID, "last")}, left)
}

// TestPortsOfTheHost are one container's, and nobody else's.
func TestPortsOfTheHost(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{})
	ports, err := network.ParsePorts("18081:80")
	require.NoError(t, err)
	h.mustAttach(1, ports, network.Request{Network: n})
	_, err = h.attach(2, ports, network.Request{Network: n})
	require.EqualError(t, err, "bind for 0.0.0.0:18081 failed: port is already allocated (by container c01)")
	some, err := network.ParsePorts("18081-18082:80")
	require.NoError(t, err)
	second := h.mustAttach(2, some, network.Request{Network: n})
	require.Equal(t, uint16(18082), second.Endpoints()[0].Ports[0].HostPort)

	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:18083")
	require.NoError(t, err)
	defer l.Close()
	of, err := network.ParsePorts("127.0.0.1:18083:80")
	require.NoError(t, err)
	_, err = h.attach(3, of, network.Request{Network: n})
	require.EqualError(t, err, "bind for 127.0.0.1:18083 failed: bind: address already in use")
	internal := h.create("internal", network.CreateOptions{Internal: true})
	_, err = h.attach(3, of, network.Request{Network: internal})
	require.ErrorIs(t, err, network.ErrInvalid)
}

// TestFlowsOfUDPFollowThePort also those that began before it was published, and after it was another's.
func TestFlowsOfUDPFollowThePort(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{})
	ports, err := network.ParsePorts("18085:53/udp")
	require.NoError(t, err)
	h.mustAttach(9, nil, network.Request{Network: n}) // from now on flows are looked at
	c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", "127.0.0.1:18085")
	require.NoError(t, err)
	defer c.Close()
	_, _ = c.Write([]byte("nobody is there"))
	for i := range byte(2) {
		a := h.mustAttach(10+i, ports, network.Request{Network: n})
		ns := namespace(t)
		require.NoError(t, a.Connect(ns))
		server := echoUDP(t, ns, '0'+i)
		require.Equal(t, "hello"+string([]byte{'0' + i}), ask(t, c))
		require.NoError(t, a.Close())
		require.NoError(t, server.Close())
	}
}

// echoUDP answers at port 53 of a namespace with what it is sent, and a mark.
func echoUDP(t *testing.T, ns *os.File, mark byte) *net.UDPConn {
	t.Helper()
	var server *net.UDPConn
	require.NoError(t, link.InNamespace(ns, func() (err error) {
		server, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 53})
		return err
	}))
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			count, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append(buffer[:count], mark), from)
		}
	}()
	return server
}

// ask says hello until there is an answer: the first may be told that nobody was there, and others be lost.
func ask(t *testing.T, c net.Conn) string {
	t.Helper()
	got := make([]byte, 100)
	for range 50 {
		_, _ = c.Write([]byte("hello"))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if count, err := c.Read(got); err == nil {
			return string(got[:count])
		}
	}
	return ""
}

// TestUDPOverIPv6 is passed on to a container that has IPv4 only: each client gets its own answers.
func TestUDPOverIPv6(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{})
	ports, err := network.ParsePorts("18086:53/udp")
	require.NoError(t, err)
	a := h.mustAttach(1, ports, network.Request{Network: n})
	ns := namespace(t)
	require.NoError(t, a.Connect(ns))
	echoUDP(t, ns, '!')
	for range 3 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", "[::1]:18086")
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, "hello!", ask(t, c))
	}
	kept, err := a.Files()
	require.NoError(t, err)
	require.Len(t, kept.Proxied, 1)
	require.Equal(t, uint16(53), kept.Proxied[0].To.Port())
	require.NoError(t, proxy.ServeFile(t.Context(), kept.Proxied[0].Socket, kept.Proxied[0].To)) // as a monitor does
	network.Abandon(a)                                                                           // its own socket is closed
	c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", "[::1]:18086")
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "hello!", ask(t, c))
}

// TestAFlushedPacketFilterIsMadeAnew with the ports of all containers that run.
func TestAFlushedPacketFilterIsMadeAnew(t *testing.T) {
	h := newHost(t)
	n, other := h.create("net", network.CreateOptions{}), h.create("other", network.CreateOptions{})
	ports, err := network.ParsePorts("18084:80")
	require.NoError(t, err)
	h.mustAttach(1, ports, network.Request{Network: n})
	before := output(t, "nft", "list", "map", "inet", "tarn", "published4")
	output(t, "nft", "flush", "ruleset")
	h.mustAttach(2, nil, network.Request{Network: other})
	require.Equal(t, before, output(t, "nft", "list", "map", "inet", "tarn", "published4"))
	require.Contains(t, output(t, "nft", "list", "map", "inet", "tarn", "forward"), n.Device)
}

// TestBesideDocker, whose policy is to drop what it does not know: our packets pass; what somebody forbids, does not.
func TestBesideDocker(t *testing.T) {
	testenv.RequireTool(t, "iptables", "ip6tables")
	h := newHost(t)
	for _, tables := range []string{"iptables", "ip6tables"} {
		output(t, tables, "-P", "FORWARD", "DROP")
		t.Cleanup(func() { output(t, tables, "-P", "FORWARD", "ACCEPT") })
	}
	n := h.create("net", network.CreateOptions{IPv6: true})
	inside := namespace(t)
	require.NoError(t, h.mustAttach(1, nil, network.Request{Network: n}).Connect(inside))
	output(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	world := namespace(t)
	moveTo(t, world, "up1")
	output(t, "ip", "addr", "add", "203.0.113.1/24", "dev", "up0")
	output(t, "ip", "link", "set", "up0", "up")
	in(t, world, "ip", "addr", "add", "203.0.113.2/24", "dev", "up1")
	in(t, world, "ip", "link", "set", "up1", "up")
	ping := []string{"busybox", "ping", "-c", "1", "-W", "1", "203.0.113.2"}
	in(t, inside, ping...)

	rules := output(t, "iptables", "-S", "FORWARD")
	require.Contains(t, rules, "-A FORWARD -i "+n.Device+" -j ACCEPT\n-A FORWARD -o "+n.Device+" -j ACCEPT\n")
	require.Contains(t, output(t, "ip6tables", "-S", "FORWARD"), "-A FORWARD -i "+n.Device+" -j ACCEPT")
	h.mustAttach(3, nil, network.Request{Network: n}) // once is enough
	require.Equal(t, rules, output(t, "iptables", "-S", "FORWARD"))
	output(t, "iptables", "-F", "FORWARD") // as a firewall does that is loaded again
	h.mustAttach(4, nil, network.Request{Network: n})
	in(t, inside, ping...)
	output(t, "iptables", "-I", "FORWARD", "-d", "203.0.113.2", "-j", "REJECT")
	rejected := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=/proc/self/fd/3"}, ping...)...)
	rejected.ExtraFiles = []*os.File{inside}
	require.Error(t, rejected.Run())
	output(t, "iptables", "-F", "FORWARD")
}

func TestNetworksComeAndGo(t *testing.T) {
	h := newHost(t)
	n := h.create("net", network.CreateOptions{Labels: map[string]string{"a": "b"}})
	for _, key := range []string{"net", n.ID, n.ID[:7]} {
		found, err := h.Find(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, n, found)
	}
	_, err := h.Create(t.Context(), network.CreateOptions{Name: "net"})
	require.ErrorIs(t, err, network.ErrExists)
	_, err = h.Create(t.Context(), network.CreateOptions{Name: "same", Subnets: []network.SubnetAsk{{Subnet: n.IPv4().Subnet}}})
	require.ErrorIs(t, err, network.ErrTaken)
	a := h.mustAttach(1, nil, network.Request{Network: n})
	require.Contains(t, output(t, "ip", "link"), n.Device)
	_, err = h.Remove(t.Context(), "net")
	require.ErrorIs(t, err, network.ErrInUse)
	require.NoError(t, a.Close())
	_, err = h.Remove(t.Context(), "net")
	require.NoError(t, err)
	require.NotContains(t, output(t, "ip", "link"), n.Device)
	require.NotContains(t, output(t, "nft", "list", "ruleset"), n.Device)
	_, err = h.attach(1, nil, network.Request{Network: n})
	require.ErrorIs(t, err, network.ErrNotFound)
	_, err = h.Remove(t.Context(), network.Default)
	require.ErrorIs(t, err, network.ErrInvalid)
}

// TestJoinAndLeave: a container that runs comes into another network, and goes.
func TestJoinAndLeave(t *testing.T) {
	h := newHost(t)
	n, other := h.create("net", network.CreateOptions{}), h.create("other", network.CreateOptions{})
	ns := namespace(t)
	a := h.mustAttach(1, nil, network.Request{Network: n})
	require.NoError(t, a.Connect(ns))
	who := network.Sandbox{Container: id(1), Name: "c01"}
	require.NoError(t, h.Join(t.Context(), who, network.Request{Network: other, Aliases: []string{"x"}}, ns))
	require.ErrorIs(t, h.Join(t.Context(), who, network.Request{Network: other}, ns), network.ErrExists)
	places, err := h.Of(id(1))
	require.NoError(t, err)
	require.Len(t, places, 2)
	require.Equal(t, "eth1", places[1].Interface)
	require.Equal(t, []string{"c01", id(1)[:12], "x"}, places[1].Names)
	in(t, ns, "busybox", "ping", "-c", "1", "-W", "5", other.IPv4().Gateway.String())
	require.NoError(t, h.Leave(id(1), n, ns))
	require.NotContains(t, in(t, ns, "ip", "link"), "eth0")
	require.Contains(t, in(t, ns, "ip", "route"), "default via "+other.IPv4().Gateway.String())
	require.NoError(t, a.Close()) // and with it what was joined later
	places, err = h.Endpoints(other)
	require.NoError(t, err)
	require.Empty(t, places)
}
