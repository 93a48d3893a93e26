package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	askTime    = 12 * time.Second // for all servers together
	serverTime = 3 * time.Second  // for each, before the next one is asked
	rounds     = 2
)

// ask has the other servers answer, one after the other; nil if none does. What they say is passed
// on as it is, with all that this package knows nothing of.
func (s *Server) ask(ctx context.Context, query []byte, question dnsmessage.Question, network string) []byte {
	for range rounds {
		for _, server := range s.Upstream {
			if answer := askServer(ctx, server, query, question, network); answer != nil {
				return answer
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
	return nil
}

// askServer asks with an ID of its own, from a port of its own: a container can neither choose them nor
// see what others ask.
func askServer(ctx context.Context, server netip.AddrPort, query []byte, question dnsmessage.Question, network string) []byte {
	ctx, cancel := context.WithTimeout(ctx, serverTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	id := newID()
	asked := append(binary.BigEndian.AppendUint16(nil, id), query[2:]...)
	if network == "tcp" {
		err = writeMessage(c, asked)
	} else {
		_, err = c.Write(asked)
	}
	if err != nil {
		return nil
	}
	for {
		answer, err := readAnswer(c, network)
		if err != nil {
			return nil
		}
		if answers(answer, id, question) {
			copy(answer, query[:2])
			return answer
		}
		if network == "tcp" {
			return nil
		}
	}
}

func readAnswer(c net.Conn, network string) ([]byte, error) {
	if network == "tcp" {
		return readMessage(c)
	}
	buffer := make([]byte, maxMessage)
	n, err := c.Read(buffer)
	return buffer[:n], err
}

// answers tells whether a message is the answer to what was asked.
func answers(message []byte, id uint16, question dnsmessage.Question) bool {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || !header.Response || header.ID != id {
		return false
	}
	q, err := p.Question()
	if err != nil {
		return header.RCode != dnsmessage.RCodeSuccess // some leave the question out of an error
	}
	return q.Type == question.Type && q.Class == question.Class && strings.EqualFold(q.Name.String(), question.Name.String())
}

func newID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return binary.BigEndian.Uint16(b[:])
}
