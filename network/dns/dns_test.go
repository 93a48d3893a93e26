package dns_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network/dns"
)

// zone is a directory as package network has it, with a container "web" in network "net", and one that
// asks.
type zone struct {
	t   *testing.T
	run string
}

func newZone(t *testing.T) *zone {
	t.Helper()
	z := &zone{t, t.TempDir()}
	for _, dir := range []string{"containers", "1111"} {
		require.NoError(t, os.Mkdir(filepath.Join(z.run, dir), 0o700))
	}
	z.keep("asks", dns.Memberships{Networks: []dns.Membership{
		{ID: "1111", Name: "net", Resolves: true}, {ID: "2222", Name: "bridge"}, {ID: "gone", Name: "gone", Resolves: true},
	}})
	z.endpoint("10.0.0.2", "fd00::2", "web", "web", "0123456789ab", "www")
	return z
}

// keep has a container's file locked, until the function is called.
func (z *zone) keep(container string, m dns.Memberships) (die func()) {
	z.t.Helper()
	data, err := json.Marshal(m)
	require.NoError(z.t, err)
	f, err := os.OpenFile(filepath.Join(z.run, "containers", container), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(z.t, err)
	_, err = f.Write(data)
	require.NoError(z.t, err)
	locked, err := sys.TryFlock(f, true)
	require.NoError(z.t, err)
	require.True(z.t, locked)
	z.t.Cleanup(func() { _ = f.Close() })
	return func() { _ = f.Close() }
}

func (z *zone) endpoint(ip4, ip6, name string, names ...string) (die func()) {
	z.t.Helper()
	die = z.keep(name, dns.Memberships{})
	e := map[string]any{"container": name, "name": name, "names": names, "ipv4": ip4}
	if ip6 != "" {
		e["ipv6"] = ip6
	}
	data, err := json.Marshal(e)
	require.NoError(z.t, err)
	require.NoError(z.t, os.WriteFile(filepath.Join(z.run, "1111", ip4), append(data, ' ', '\n'), 0o600))
	return die
}

// server runs a server for the zone, and gives a resolver that asks it.
func (z *zone) server(upstream ...netip.AddrPort) (resolver *net.Resolver, address string) {
	z.t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(z.t, err)
	address = udp.LocalAddr().String()
	tcp, err := (&net.ListenConfig{}).Listen(z.t.Context(), "tcp4", address)
	require.NoError(z.t, err)
	z.t.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	s := &dns.Server{Zone: &dns.Zone{Run: z.run, Container: "asks"}, Upstream: upstream}
	go s.ServeUDP(context.Background(), udp)
	go s.ServeTCP(context.Background(), tcp)
	return resolverAt(address), address
}

func resolverAt(address string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
}

func TestNamesOfContainers(t *testing.T) {
	z := newZone(t)
	r, _ := z.server()
	for _, name := range []string{"web.", "WEB.", "www.", "0123456789ab.", "web.net.", "www.Net."} {
		got, err := r.LookupNetIP(t.Context(), "ip", name)
		require.NoError(t, err, name)
		require.ElementsMatch(t, []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}, got, name)
	}
	for address, want := range map[string]string{"10.0.0.2": "web.net.", "fd00::2": "web.net."} {
		names, err := r.LookupAddr(t.Context(), address)
		require.NoError(t, err)
		require.Equal(t, []string{want}, names)
	}
	_, err := r.LookupMX(t.Context(), "web.") // it is there, and has none
	require.ErrorContains(t, err, "no such host")
	for _, name := range []string{"db.", "web.other.", "we.", "asks."} {
		_, err := r.LookupHost(t.Context(), name)
		require.ErrorContains(t, err, "server misbehaving", name)
	}
}

// TestNamesComeAndGoAtOnce with their containers, without anybody telling the server.
func TestNamesComeAndGoAtOnce(t *testing.T) {
	z := newZone(t)
	r, _ := z.server()
	for range 3 {
		_, err := r.LookupHost(t.Context(), "db.")
		require.Error(t, err)
		die := z.endpoint("10.0.0.3", "", "db", "db")
		got, err := r.LookupHost(t.Context(), "db.")
		require.NoError(t, err)
		require.Equal(t, []string{"10.0.0.3"}, got)
		die() // killed: its file is there still
		_, err = r.LookupHost(t.Context(), "db.")
		require.Error(t, err)
		require.NoError(t, os.Remove(filepath.Join(z.run, "1111", "10.0.0.3")))
		time.Sleep(60 * time.Millisecond) // from now on what was read may be kept
	}
}

func TestAliasOfSeveralContainers(t *testing.T) {
	z := newZone(t)
	z.endpoint("10.0.0.4", "", "a", "a", "both")
	z.endpoint("10.0.0.5", "", "b", "b", "both")
	r, _ := z.server()
	got, err := r.LookupHost(t.Context(), "both.")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"10.0.0.4", "10.0.0.5"}, got)
}

// upstream is a name server of the world: it knows one name, whose answer does not fit into UDP.
func upstream(t *testing.T) netip.AddrPort {
	t.Helper()
	answer := func(query []byte, truncate bool) []byte {
		var m dnsmessage.Message
		if m.Unpack(query) != nil {
			return nil
		}
		m.Response, m.Additionals = true, nil
		if m.Questions[0].Name.String() != "world.example." {
			m.RCode = dnsmessage.RCodeNameError
		} else if m.Truncated = truncate; !truncate && m.Questions[0].Type == dnsmessage.TypeA {
			for n := range byte(200) {
				header := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, n}}})
			}
		}
		packed, _ := m.Pack()
		return packed
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", udp.LocalAddr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			// What somebody else would like to be taken for the answer comes first.
			forged := answer(buffer[:n], false)
			binary.BigEndian.PutUint16(forged, binary.BigEndian.Uint16(forged)+1)
			_, _ = udp.WriteTo(forged, from)
			_, _ = udp.WriteTo(answer(buffer[:n], true), from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			if _, err := io.ReadFull(c, length[:]); err == nil {
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				_, _ = io.ReadFull(c, query)
				packed := answer(query, false)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
			}
			_ = c.Close()
		}
	}()
	return netip.MustParseAddrPort(udp.LocalAddr().String())
}

// TestOtherNamesArePassedOn over UDP, and what does not fit over TCP; a server that does not answer is passed
// over.
func TestOtherNamesArePassedOn(t *testing.T) {
	z := newZone(t)
	dead, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	deadAddress := netip.MustParseAddrPort(dead.LocalAddr().String())
	require.NoError(t, dead.Close()) // ICMP says at once that nobody is there
	r, _ := z.server(deadAddress, upstream(t))
	got, err := r.LookupNetIP(t.Context(), "ip4", "world.example.")
	require.NoError(t, err)
	require.Len(t, got, 200)
	_, err = r.LookupHost(t.Context(), "nobody.example.")
	require.ErrorContains(t, err, "no such host")
}

// TestBadQueries are refused, or passed over, and the next is answered.
func TestBadQueries(t *testing.T) {
	z := newZone(t)
	r, address := z.server()
	name := dnsmessage.MustNewName("web.")
	question := dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	pack := func(m dnsmessage.Message) []byte {
		packed, err := m.Pack()
		require.NoError(t, err)
		return packed
	}
	ask := func(query []byte) (m dnsmessage.Message, answered bool) {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", address)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write(query)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		buffer := make([]byte, 4096)
		n, err := c.Read(buffer)
		if err != nil {
			return m, false
		}
		require.NoError(t, m.Unpack(buffer[:n]))
		return m, true
	}
	for want, query := range map[dnsmessage.RCode][]byte{
		dnsmessage.RCodeFormatError:    pack(dnsmessage.Message{Questions: []dnsmessage.Question{question, question}}),
		dnsmessage.RCodeNotImplemented: pack(dnsmessage.Message{Header: dnsmessage.Header{OpCode: 4}, Questions: []dnsmessage.Question{question}}),
		dnsmessage.RCodeServerFailure:  pack(dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassCHAOS}}}),
	} {
		m, answered := ask(query)
		require.True(t, answered)
		require.Equal(t, want, m.RCode)
	}
	for _, query := range [][]byte{{}, {1, 2, 3}, pack(dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Questions: []dnsmessage.Question{question}})} {
		_, answered := ask(query)
		require.False(t, answered)
	}
	_, err := r.LookupHost(t.Context(), "web.")
	require.NoError(t, err)
}

// FuzzAnswer has a container ask anything.
func FuzzAnswer(f *testing.F) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("2.0.0.10.in-addr.arpa."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}
	packed, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{question}}).Pack()
	require.NoError(f, err)
	f.Add(packed)
	f.Add([]byte(strings.Repeat("\xc0\x0c", 40)))
	run := f.TempDir()
	f.Fuzz(func(t *testing.T, query []byte) {
		s := &dns.Server{Zone: &dns.Zone{Run: run, Container: "asks"}}
		answer := s.Answer(context.Background(), query)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		require.NoError(t, m.Unpack(answer))
		require.True(t, m.Response)
		require.Equal(t, query[:2], answer[:2])
	})
}
