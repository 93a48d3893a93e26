// Package dns answers what the programs of a container ask: the names of other containers of its networks
// it knows, other names it passes on to the host's name servers.
//
// There is one server for each container, in the process that takes care of it. Its sockets are in the
// container's network namespace, and it asks others from the host's. Who asks may be hostile: queries are
// bounded in number and size, and nothing of one is used but its question.
//
// Sources: RFC 1035, RFC 7766 (TCP), RFC 6891 (EDNS). The package has few imports, since there may be many
// processes that have it.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Server answers the queries of one container.
type Server struct {
	Zone     *Zone            // the names of containers; nil for none
	Upstream []netip.AddrPort // other name servers, in the order in which they are asked; none for no other names
}

const (
	maxQueries     = 64               // that are being answered; more are lost, and asked again
	maxConnections = 32               // over TCP
	maxQuery       = 4096             // bytes of one over UDP
	maxMessage     = 65535            // of any
	idleTime       = 10 * time.Second // a connection without a query
	pause          = 100 * time.Millisecond
)

// ServeUDP answers queries until the socket is closed; ctx ends what is being asked then.
func (s *Server) ServeUDP(ctx context.Context, c net.PacketConn) {
	room := make(chan struct{}, maxQueries)
	buffer := make([]byte, maxQuery)
	for {
		n, from, err := c.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(pause) // such as that an earlier answer was not wanted
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			continue
		}
		query := append([]byte(nil), buffer[:n]...)
		go func() {
			defer func() { <-room }()
			if answer := s.answer(ctx, query, "udp"); answer != nil {
				_, _ = c.WriteTo(answer, from) // or it asks again
			}
		}()
	}
}

// ServeTCP answers queries until the listener is closed.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener) {
	room := make(chan struct{}, maxConnections)
	for {
		room <- struct{}{}
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-room
			time.Sleep(pause)
			continue
		}
		go func() {
			defer func() { <-room }()
			s.serveConnection(ctx, c)
		}()
	}
}

// serveConnection answers one query after the other.
func (s *Server) serveConnection(ctx context.Context, c net.Conn) {
	defer c.Close()
	for {
		_ = c.SetDeadline(time.Now().Add(idleTime))
		query, err := readMessage(c)
		if err != nil {
			return
		}
		answer := s.answer(ctx, query, "tcp")
		_ = c.SetDeadline(time.Now().Add(idleTime))
		if answer == nil || writeMessage(c, answer) != nil {
			return
		}
	}
}

// answer gives the answer to a query, nil if it is none.
func (s *Server) answer(ctx context.Context, query []byte, network string) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := p.Question()
	if err != nil || header.OpCode != 0 {
		code := dnsmessage.RCodeFormatError
		if header.OpCode != 0 {
			code = dnsmessage.RCodeNotImplemented
		}
		return reply(header, nil, code)
	}
	if more, err := p.Question(); err == nil && more.Name.Length > 0 {
		return reply(header, nil, dnsmessage.RCodeFormatError) // nobody asks two things at once
	}
	if records, known := s.Zone.records(question); known {
		return reply(header, &question, dnsmessage.RCodeSuccess, records...)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if answer := s.ask(ctx, query, question, network); answer != nil {
		return answer
	}
	return reply(header, &question, dnsmessage.RCodeServerFailure)
}

// reply makes an answer of our own.
func reply(query dnsmessage.Header, question *dnsmessage.Question, code dnsmessage.RCode, records ...dnsmessage.Resource) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: query.ID, Response: true, OpCode: query.OpCode, RecursionDesired: query.RecursionDesired, RecursionAvailable: true, RCode: code,
		},
		Answers: records,
	}
	if question != nil {
		m.Questions = []dnsmessage.Question{*question}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// readMessage reads a message with its length before it, as over TCP.
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeMessage(w io.Writer, message []byte) error {
	if len(message) > maxMessage {
		return io.ErrShortWrite
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}
