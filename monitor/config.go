// Package monitor is the small program that stays with a container that runs on its own: the parent of
// its first process, which takes its output to the log and to those who are attached, and its input
// from them. What else there is to do, it has tarn do, by executing it. docs/adr/monitor.md says why.
//
// It is small in memory, so it knows nothing else of tarn, and no package that is large.
package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/monitor/logfile"
)

// Config is what a monitor is to do. It is passed on as arguments of the program, see [Config.Args].
type Config struct {
	ID  string // of the container, for who lists processes
	PID int    // the container's first process, a child of this one

	// Descriptors that were passed on; 0 is none.
	Stdin  int // what the container reads can be written here
	Stdout int // what it writes can be read here
	Stderr int
	TTY    int // its terminal, in place of the three
	Socket int // a listening Unix stream socket, to attach to
	Client int // a connected one, of somebody who is attached from the beginning

	// Held are descriptors to be held open: what the container has of networks counts as long as they are.
	Held []int
	// Proxied are sockets of ports that the packet filter cannot lead to the container.
	Proxied []Proxied
	// NamesUDP and NamesTCP are sockets at which the container asks for names; NamesRun is where those of
	// its networks are, and NameServers who is asked for others.
	NamesUDP, NamesTCP int
	NamesRun           string
	NameServers        []netip.AddrPort

	StdinOnce bool // the input ends with the first who gave some

	Log    logfile.Files // of the log; no path for none
	Format string        // of the log, see [logfile.Create]

	StopSignal int    // what the container gets in place of a SIGTERM to the monitor
	Exit       string // file for the container's exit, see [WriteExit]

	// Health is the arguments of tarn that look after the container's health; none if nobody is to.
	// HealthInterval passes between two looks, HealthStartInterval in the first HealthStart.
	Health                                           []string
	HealthInterval, HealthStart, HealthStartInterval time.Duration

	// Then is the program to execute at the end, with its arguments.
	Then []string
}

// errArguments says that arguments are not what Args gives.
var errArguments = errors.New("bad arguments of a monitor")

// field is one member of a Config in its text form.
type field struct {
	key string
	get func() string
	set func(text string) error
}

func (c *Config) fields() []field {
	number := func(key string, n *int) field {
		return field{key, func() string { return strconv.Itoa(*n) }, func(text string) (err error) {
			*n, err = strconv.Atoi(text)
			return err
		}}
	}
	wide := func(key string, n *int64) field {
		return field{key, func() string { return strconv.FormatInt(*n, 10) }, func(text string) (err error) {
			*n, err = strconv.ParseInt(text, 10, 64)
			return err
		}}
	}
	text := func(key string, s *string) field {
		return field{key, func() string { return *s }, func(text string) error {
			*s = text
			return nil
		}}
	}
	return []field{
		text("id", &c.ID), number("pid", &c.PID),
		number("stdin", &c.Stdin), number("stdout", &c.Stdout), number("stderr", &c.Stderr), number("tty", &c.TTY),
		number("socket", &c.Socket), number("client", &c.Client),
		text("log", &c.Log.Path), wide("max-size", &c.Log.MaxSize), number("max-file", &c.Log.MaxFile), text("format", &c.Format),
		number("stop-signal", &c.StopSignal), text("exit", &c.Exit),
		{"stdin-once", func() string { return strconv.FormatBool(c.StdinOnce) }, func(text string) (err error) {
			c.StdinOnce, err = strconv.ParseBool(text)
			return err
		}},
		number("names-udp", &c.NamesUDP), number("names-tcp", &c.NamesTCP), text("names-run", &c.NamesRun),
		list("held", &c.Held, strconv.Itoa, strconv.Atoi),
		list("proxied", &c.Proxied, Proxied.String, parseProxied),
		list("name-servers", &c.NameServers, netip.AddrPort.String, netip.ParseAddrPort),
		wide("health-interval", (*int64)(&c.HealthInterval)), wide("health-start", (*int64)(&c.HealthStart)),
		wide("health-start-interval", (*int64)(&c.HealthStartInterval)),
	}
}

// list is a member that has several values, with commas between.
func list[T any](key string, values *[]T, format func(T) string, parse func(string) (T, error)) field {
	get := func() string {
		var words []string
		for _, v := range *values {
			words = append(words, format(v))
		}
		return strings.Join(words, ",")
	}
	return field{key, get, func(text string) error {
		for word := range strings.SplitSeq(text, ",") {
			v, err := parse(word)
			if err != nil {
				return err
			}
			*values = append(*values, v)
		}
		return nil
	}}
}

// Args gives the arguments: KEY=VALUE for each member, then "then" and "health", each with the number
// of words that follow.
func (c *Config) Args() []string {
	var args []string
	for _, f := range c.fields() {
		if value := f.get(); value != "" && value != "0" && value != "false" {
			args = append(args, f.key+"="+value)
		}
	}
	args = append(append(args, "health="+strconv.Itoa(len(c.Health))), c.Health...)
	return append(append(args, "then="+strconv.Itoa(len(c.Then))), c.Then...)
}

// ParseArgs is the reverse of [Config.Args].
func ParseArgs(args []string) (*Config, error) {
	c := &Config{}
	fields := c.fields()
	for len(args) > 0 {
		key, value, _ := strings.Cut(args[0], "=")
		args = args[1:]
		var err error
		switch key {
		case "health":
			c.Health, args, err = takeWords(args, value)
		case "then":
			c.Then, args, err = takeWords(args, value)
		default:
			err = setField(fields, key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s=%s: %w", errArguments, key, value, err)
		}
	}
	return c, nil
}

func setField(fields []field, key, value string) error {
	for _, f := range fields {
		if f.key == key {
			return f.set(value)
		}
	}
	return errArguments
}

func takeWords(args []string, count string) (words, rest []string, err error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > len(args) {
		return nil, nil, errArguments
	}
	return args[:n:n], args[n:], nil
}
