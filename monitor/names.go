package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/network/dns"
	"github.com/tarnfs/tarn/network/proxy"
)

// holdNetworks keeps what the container has of networks, and answers when it asks for names.
func (m *monitor) holdNetworks(ctx context.Context) error {
	for _, fd := range m.cfg.Held {
		syscall.CloseOnExec(fd)
	}
	for _, p := range m.cfg.Proxied {
		if err := proxy.ServeFile(ctx, takeFile(p.Socket), p.To); err != nil {
			return err
		}
	}
	if m.cfg.NamesUDP == 0 {
		return nil
	}
	return m.serveNames(ctx, NameService{m.cfg.NamesRun, m.cfg.NameServers}, takeFile(m.cfg.NamesUDP), takeFile(m.cfg.NamesTCP))
}

// NameService is what a container's questions for names are answered with.
type NameService struct {
	Run     string           // where the names of its networks are, see dns.Zone
	Servers []netip.AddrPort // who is asked for others
}

func (m *monitor) serveNames(ctx context.Context, n NameService, udp, tcp *os.File) error {
	server := &dns.Server{Zone: &dns.Zone{Run: n.Run, Container: m.cfg.ID}, Upstream: n.Servers}
	packets, err := net.FilePacketConn(udp)
	if err != nil {
		return err
	}
	listener, err := net.FileListener(tcp)
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	_, _ = udp.Close(), tcp.Close() // those are others
	go server.ServeUDP(ctx, packets)
	go server.ServeTCP(ctx, listener)
	return nil
}

// beginNames does what a [Names] frame says: the container came into a network in which there are names.
func (m *monitor) beginNames(ctx context.Context, c *client, content []byte) {
	answer := ""
	if err := m.beginNamesWith(ctx, content, c.conn.takePassed()); err != nil {
		answer = err.Error()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = WriteFrame(c.conn, Names, []byte(answer)) // who asked may be gone
}

func (m *monitor) beginNamesWith(ctx context.Context, content []byte, passed []*os.File) error {
	var n NameService
	err := json.Unmarshal(content, &n)
	if err == nil && len(passed) != 2 {
		err = fmt.Errorf("%w: %d sockets", errArguments, len(passed))
	}
	if err == nil {
		err = m.serveNames(ctx, n, passed[0], passed[1])
	}
	for _, f := range passed {
		_ = f.Close() // once more does not matter
	}
	return err
}

// takeFile makes a file of a descriptor that was passed on, to be passed on within this program.
func takeFile(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "socket")
}

// Proxied is a socket of TCP or UDP, and where what comes to it is passed on to.
type Proxied struct {
	Socket int
	To     netip.AddrPort
}

// String is "SOCKET@ADDRESS".
func (p Proxied) String() string { return strconv.Itoa(p.Socket) + "@" + p.To.String() }

func parseProxied(text string) (p Proxied, err error) {
	socket, to, found := strings.Cut(text, "@")
	if !found {
		return p, fmt.Errorf("%w: %q", errArguments, text)
	}
	if p.Socket, err = strconv.Atoi(socket); err != nil {
		return p, err
	}
	p.To, err = netip.ParseAddrPort(to)
	return p, err
}
