// Package dbus calls methods of a peer by D-Bus, over its own socket, without a bus between: all that asking
// systemd for a unit takes. The libraries for D-Bus have 0.7 MB resident in a program that imports them, which
// an OCI runtime would have for every container.
//
// Source: the D-Bus specification, "Message Protocol" and "Authentication Protocol".
package dbus

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
)

// Conn is a connection.
type Conn struct {
	f      *os.File
	in     *bufio.Reader
	serial uint32
	stop   func() bool
}

// maxMessage is the specification's.
const maxMessage = 128 << 20

// Dial connects to a socket as the calling user. When ctx ends, the connection does. The caller closes it.
func Dial(ctx context.Context, path string) (*Conn, error) {
	f, err := sys.ConnectUnix(path)
	if err != nil {
		return nil, err
	}
	c := &Conn{f: f, in: bufio.NewReader(f)}
	c.stop = context.AfterFunc(ctx, func() { _ = f.Close() })
	// EXTERNAL: the peer knows our user ID from the socket.
	if _, err := fmt.Fprintf(f, "\x00AUTH EXTERNAL %s\r\n", hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	line, err := c.in.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "OK ") {
		err = fmt.Errorf("%s: not let in: %q", path, strings.TrimSpace(line))
	}
	if err == nil {
		_, err = io.WriteString(f, "BEGIN\r\n")
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.stop()
	return c.f.Close()
}

// Body is what a message has in it, as it is being written.
type Body []byte

func (b *Body) align(n int) {
	for len(*b)%n != 0 {
		*b = append(*b, 0)
	}
}

// Byte adds a BYTE.
func (b *Body) Byte(v byte) { *b = append(*b, v) }

// Uint32 adds a UINT32.
func (b *Body) Uint32(v uint32) {
	b.align(4)
	*b = binary.LittleEndian.AppendUint32(*b, v)
}

// Bool adds a BOOLEAN.
func (b *Body) Bool(v bool) {
	n := uint32(0)
	if v {
		n = 1
	}
	b.Uint32(n)
}

// String adds a STRING, or an OBJECT_PATH.
func (b *Body) String(s string) {
	b.Uint32(uint32(len(s)))
	*b = append(append(*b, s...), 0)
}

// Signature adds a SIGNATURE: the type of a variant comes before its value.
func (b *Body) Signature(s string) { *b = append(append(append(*b, byte(len(s))), s...), 0) }

// Struct begins a STRUCT.
func (b *Body) Struct() { b.align(8) }

// Array adds an ARRAY of what elements adds; align is the elements' alignment.
func (b *Body) Array(align int, elements func()) {
	b.Uint32(0)
	at := len(*b) - 4
	b.align(align)
	from := len(*b)
	elements()
	binary.LittleEndian.PutUint32((*b)[at:], uint32(len(*b)-from))
}

// Header fields, and types of messages.
const (
	fieldPath, fieldInterface, fieldMember, fieldErrorName, fieldReplySerial, fieldDestination, fieldSignature = 1, 2, 3, 4, 5, 6, 8

	typeCall, typeReturn, typeError = 1, 2, 3
)

// Call calls a method, and gives what it returns, if that is a string, an object path, or a variant with
// one of these in it; else "".
func (c *Conn) Call(destination, path, iface, member, signature string, body Body) (string, error) {
	c.serial++
	m := Body{'l', typeCall, 0, 1}
	m.Uint32(uint32(len(body)))
	m.Uint32(c.serial)
	m.Array(8, func() {
		for _, f := range []struct {
			code        byte
			kind, value string
		}{{fieldPath, "o", path}, {fieldInterface, "s", iface}, {fieldMember, "s", member}, {fieldDestination, "s", destination}} {
			m.Struct()
			m.Byte(f.code)
			m.Signature(f.kind)
			m.String(f.value)
		}
		if signature != "" {
			m.Struct()
			m.Byte(fieldSignature)
			m.Signature("g")
			m.Signature(signature)
		}
	})
	m.align(8)
	if _, err := c.f.Write(append(m, body...)); err != nil {
		return "", err
	}
	for { // signals come in between
		r, err := c.receive()
		if err != nil {
			return "", err
		}
		if r.replySerial != c.serial {
			continue
		}
		if r.kind == typeError {
			return "", &Error{Member: member, Name: r.errorName, Text: r.text}
		}
		return r.text, nil
	}
}

// message is what of one is of interest.
type message struct {
	kind            byte
	replySerial     uint32
	errorName, text string
}

// Error is what the other side answers in place of a result (D-Bus Specification, "Message Types").
type Error struct {
	Member string // what was called
	Name   string // as org.freedesktop.DBus.Error.Failed
	Text   string
}

func (e *Error) Error() string { return e.Member + ": " + e.Name + ": " + e.Text }

var errMalformed = errors.New("D-Bus: malformed message")

func (c *Conn) receive() (m message, err error) {
	const fixed = 16
	head := make([]byte, fixed)
	if _, err := io.ReadFull(c.in, head); err != nil {
		return m, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[0] == 'B' {
		order = binary.BigEndian
	}
	bodySize, fieldsSize := order.Uint32(head[4:]), order.Uint32(head[12:])
	if bodySize > maxMessage || fieldsSize > maxMessage {
		return m, errMalformed
	}
	rest := make([]byte, (int(fieldsSize)+7)&^7+int(bodySize))
	if _, err := io.ReadFull(c.in, rest); err != nil {
		return m, err
	}
	m.kind = head[1]
	// Offsets count from the message's beginning, which is aligned to 8 as fixed is.
	fields := &parser{data: rest[:fieldsSize], order: order}
	signature := ""
	for fields.at < len(fields.data) && fields.err == nil {
		fields.align(8)
		code, kind := fields.byte(), fields.signature()
		switch kind {
		case "g":
			signature = fields.signature()
		case "u":
			n := fields.uint32()
			if code == fieldReplySerial {
				m.replySerial = n
			}
		case "s", "o":
			s := fields.string()
			if code == fieldErrorName {
				m.errorName = s
			}
		default:
			return m, errMalformed
		}
	}
	body := &parser{data: rest[len(rest)-int(bodySize):], order: order}
	if strings.HasPrefix(signature, "v") {
		signature = body.signature()
	}
	if signature != "" && (signature[0] == 's' || signature[0] == 'o') {
		m.text = body.string()
	}
	return m, errors.Join(fields.err, body.err)
}

// parser reads a part of a message.
type parser struct {
	data  []byte
	at    int
	order binary.ByteOrder
	err   error
}

func (p *parser) take(n int) []byte {
	if p.err != nil || n < 0 || n > len(p.data)-p.at {
		p.err = errMalformed
		return make([]byte, max(0, min(n, 8)))
	}
	b := p.data[p.at : p.at+n]
	p.at += n
	return b
}

func (p *parser) align(n int) {
	if over := p.at % n; over != 0 {
		p.take(n - over)
	}
}

func (p *parser) byte() byte { return p.take(1)[0] }

func (p *parser) uint32() uint32 {
	p.align(4)
	return p.order.Uint32(p.take(4))
}

func (p *parser) string() string {
	s := string(p.take(int(p.uint32())))
	p.take(1)
	return s
}

func (p *parser) signature() string {
	s := string(p.take(int(p.byte())))
	p.take(1)
	return s
}
