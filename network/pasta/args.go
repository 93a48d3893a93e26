package pasta

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// Forward is a port of the host that leads to one in the namespace.
type Forward struct {
	HostIP        netip.Addr // unspecified, or invalid: all addresses of the host
	HostPort      uint16
	ContainerPort uint16
	Proto         string // "tcp" or "udp"
}

// String is what pasta's options -t and -u take.
func (f Forward) String() string {
	ports := fmt.Sprintf("%d:%d", f.HostPort, f.ContainerPort)
	if !f.HostIP.IsValid() || f.HostIP.IsUnspecified() {
		return ports
	}
	return f.HostIP.String() + "/" + ports
}

// Options are pasta's options as the user gave them, a word each.
type Options []string

// Parse reads what stands behind "pasta:", as podman has it: words with commas between.
func Parse(text string) Options {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// value gives what an option says that has one of these names; the last, if it is given several times.
func (o Options) value(names ...string) (value string, given bool) {
	for i, word := range o {
		for _, name := range names {
			switch rest, attached := strings.CutPrefix(word, name); {
			case word == name && i+1 < len(o):
				value, given = o[i+1], true
			case word == name:
				given = true
			case attached && strings.HasPrefix(name, "--") && rest[0] == '=':
				value, given = rest[1:], true
			case attached && !strings.HasPrefix(name, "--"):
				value, given = rest, true
			}
		}
	}
	return value, given
}

// mapGateway is podman's: without it, the gateway's address does not lead to the host's own loopback interface.
const mapGateway = "--map-gw"

// Addresses by which a container reaches what is the host's, podman's: link-local, since they are nobody's elsewhere.
const (
	nameServer = "169.254.1.1"
	hostItself = "169.254.1.2"
)

// NameServer is the address at which the container finds the host's name server, also one that only the host reaches.
func (o Options) NameServer() (netip.Addr, bool) {
	text, given := o.value("--dns-forward")
	if !given {
		text = nameServer
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil
}

// Host is the address at which the container finds the host itself, if there is one. gateway is that of the container's
// default route, and args are those of [Options.Args].
func (o Options) Host(args []string, gateway netip.Addr) (netip.Addr, bool) {
	if text, given := Options(args).value("--map-guest-addr"); given {
		a, err := netip.ParseAddr(text)
		return a, err == nil
	}
	_, given := o.value(mapGateway)
	return gateway, given && gateway.IsValid()
}

// Args gives the arguments for pasta: by default it forwards no ports, and leads to no service of the host's that is
// reached from the host only. The path is pasta's, whose help says what it knows.
func (o Options) Args(ctx context.Context, path string, forwards []Forward) []string {
	var args []string
	for _, word := range o {
		if word != mapGateway {
			args = append(args, word)
		}
	}
	for _, kind := range []struct{ proto, short, long string }{
		{"tcp", "-t", "--tcp-ports"}, {"udp", "-u", "--udp-ports"}, {"", "-T", "--tcp-ns"}, {"", "-U", "--udp-ns"},
	} {
		_, given := o.value(kind.short, kind.long)
		for _, f := range forwards {
			if f.Proto == kind.proto {
				args, given = append(args, kind.short, f.String()), true
			}
		}
		if !given {
			args = append(args, kind.short, "none")
		}
	}
	_, mapped := o.value(mapGateway)
	if _, given := o.value("--no-map-gw"); !given && !mapped {
		args = append(args, "--no-map-gw")
	}
	if _, given := o.value("--dns-forward"); !given {
		args = append(args, "--dns-forward", nameServer)
	}
	if _, given := o.value("--map-guest-addr"); !given && !mapped && knows(ctx, path, "--map-guest-addr") {
		args = append(args, "--map-guest-addr", hostItself)
	}
	return args
}

// knows tells whether pasta has an option: before 2024 it has fewer.
func knows(ctx context.Context, path, option string) bool {
	help, err := exec.CommandContext(ctx, path, "--help").CombinedOutput()
	return err == nil && bytes.Contains(help, []byte(option))
}
