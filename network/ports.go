package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// PortMapping is a port of a container that is to be reached by one of the host's.
type PortMapping struct {
	HostIP            netip.Addr // invalid: all addresses of the host
	HostPort, HostEnd uint16     // one of these, the first that is free; 0 for any
	ContainerPort     uint16
	Proto             string // "tcp", "udp" or "sctp"
}

// ParsePorts reads what Docker's --publish takes: [IP:][HOSTPORT:]PORT[/PROTO], where ports can be
// ranges ("8000-8010"), of the same length; or the host's of any length for one of the container's, which
// gets the first that is free. An IPv6 address stands in brackets.
func ParsePorts(text string) ([]PortMapping, error) {
	list, err := parsePorts(text)
	if err != nil {
		return nil, fmt.Errorf("%w: port %q: %w: use [IP:][HOSTPORT:]PORT[/PROTOCOL]", ErrInvalid, text, err)
	}
	return list, nil
}

func parsePorts(text string) ([]PortMapping, error) {
	ports, proto, err := cutProto(text)
	if err != nil {
		return nil, err
	}
	m := PortMapping{Proto: proto}
	rest, container := "", ports
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		rest, container = ports[:i], ports[i+1:]
	}
	host := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host = rest[i+1:]
		if m.HostIP, err = parseHostIP(rest[:i]); err != nil {
			return nil, err
		}
	}
	first, end, err := parseRange(container)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return m.each(first, end, 0, 0)
	}
	hostFirst, hostEnd, err := parseRange(host)
	if err != nil {
		return nil, err
	}
	return m.each(first, end, hostFirst, hostEnd)
}

// each makes a mapping for each port of a range.
func (m PortMapping) each(first, end, hostFirst, hostEnd uint16) ([]PortMapping, error) {
	if first == end {
		m.ContainerPort, m.HostPort, m.HostEnd = first, hostFirst, hostEnd
		return []PortMapping{m}, nil
	}
	if hostFirst != 0 && hostEnd-hostFirst != end-first {
		return nil, errors.New("the ranges have different lengths")
	}
	var list []PortMapping
	for i := range int(end-first) + 1 {
		m.ContainerPort = first + uint16(i)
		if hostFirst != 0 {
			m.HostPort, m.HostEnd = hostFirst+uint16(i), hostFirst+uint16(i)
		}
		list = append(list, m)
	}
	return list, nil
}

// ParseExposed reads what Docker's --expose, and an image, have: PORT[-PORT][/PROTO]. The mappings are to
// any port of the host.
func ParseExposed(text string) ([]PortMapping, error) {
	ports, proto, err := cutProto(text)
	if err == nil {
		var first, end uint16
		if first, end, err = parseRange(ports); err == nil {
			return PortMapping{Proto: proto}.each(first, end, 0, 0)
		}
	}
	return nil, fmt.Errorf("%w: port %q: %w: use PORT[/PROTOCOL]", ErrInvalid, text, err)
}

func cutProto(text string) (ports, proto string, err error) {
	ports, proto, found := strings.Cut(text, "/")
	if !found {
		return ports, "tcp", nil
	}
	proto = strings.ToLower(proto)
	if _, ok := protocols()[proto]; !ok {
		return "", "", fmt.Errorf("protocol %q is none of tcp, udp and sctp", proto)
	}
	return ports, proto, nil
}

func parseHostIP(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	} else if strings.Contains(text, ":") {
		return netip.Addr{}, errors.New("an IPv6 address stands in brackets")
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), err
}

func parseRange(text string) (first, end uint16, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if first, err = parsePort(from); err != nil || !ranged {
		return first, first, err
	}
	if end, err = parsePort(to); err == nil && end < first {
		err = errors.New("the range ends before it begins")
	}
	return first, end, err
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, fmt.Errorf("%q is no port", text)
	}
	return uint16(n), nil
}
