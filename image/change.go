package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// ErrChange is wrapped by every error about an instruction given with --change.
var ErrChange = errors.New("invalid change")

// ApplyChanges applies Dockerfile instructions, one each, in their order: CMD, ENTRYPOINT, ENV,
// EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR, which are those
// that "docker commit --change" and "docker import --change" take, with the Dockerfile
// reference's rules for quotes and for $VARIABLES. After an error c is half changed.
func (c *RunConfig) ApplyChanges(instructions []string) error {
	cmdSet := false
	for _, instruction := range instructions {
		name, rest := cutWord(strings.TrimSpace(instruction))
		name = strings.ToUpper(name)
		if err := c.applyChange(name, rest); err != nil {
			return fmt.Errorf("%w %q: %w", ErrChange, clip(instruction), err)
		}
		switch name {
		case "CMD":
			cmdSet = true
		case "ENTRYPOINT":
			// The arguments of the old entry point are nothing to the new one.
			if !cmdSet {
				c.Cmd = nil
			}
		}
	}
	return nil
}

func (c *RunConfig) applyChange(name, rest string) error {
	if rest == "" {
		return errors.New("it has no argument")
	}
	switch name {
	case "CMD":
		c.Cmd = c.commandLine(rest)
		return nil
	case "ENTRYPOINT":
		c.Entrypoint = c.commandLine(rest)
		return nil
	case "ENV":
		return c.pairs(rest, func(key, value string) { c.Env = SetEnv(c.Env, key, value) })
	case "LABEL":
		return c.pairs(rest, func(key, value string) { setIn(&c.Labels, key, value) })
	case "EXPOSE":
		return c.expose(rest)
	case "VOLUME":
		return c.volume(rest)
	case "WORKDIR":
		return c.workdir(rest)
	case "USER":
		return c.single(rest, &c.User)
	case "STOPSIGNAL":
		return c.single(rest, &c.StopSignal)
	case "ONBUILD":
		return c.onBuild(rest)
	case "HEALTHCHECK":
		return c.healthcheck(rest)
	default:
		return errors.New("use CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR")
	}
}

func setIn[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[key] = value
}

func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}

// jsonWords reads the exec form: a JSON list of strings. Whatever is not one is the shell form.
func jsonWords(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	var list []string
	if err := json.Unmarshal([]byte(s), &list); err != nil || list == nil {
		return nil, false
	}
	return list, true
}

func (c *RunConfig) commandLine(rest string) Words {
	if list, ok := jsonWords(rest); ok {
		return list
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = Words{"/bin/sh", "-c"}
	}
	return append(append(Words(nil), shell...), rest)
}

// words splits s and puts in variables from the config's environment.
func (c *RunConfig) words(s string) ([]string, error) {
	return splitWords(s, func(name string) (string, bool) { return LookupEnv(c.Env, name) })
}

func (c *RunConfig) single(rest string, field *string) error {
	list, err := c.words(rest)
	if err != nil {
		return err
	}
	if len(list) != 1 || list[0] == "" {
		return errors.New("it takes one argument")
	}
	*field = list[0]
	return nil
}

// pairs reads "key=value key=value", or the old form "key the rest is the value".
func (c *RunConfig) pairs(rest string, set func(key, value string)) error {
	if first, value := cutWord(rest); !strings.Contains(first, "=") {
		list, err := c.words(`"` + strings.ReplaceAll(value, `"`, `\"`) + `"`)
		if err != nil {
			return err
		}
		if value == "" {
			return fmt.Errorf("%q is not key=value", clip(first))
		}
		set(first, list[0])
		return nil
	}
	list, err := c.words(rest)
	if err != nil {
		return err
	}
	for _, word := range list {
		key, _, found := strings.Cut(word, "=")
		if !found || key == "" {
			return fmt.Errorf("%q is not key=value", clip(word))
		}
	}
	for _, word := range list {
		key, value, _ := strings.Cut(word, "=")
		set(key, value)
	}
	return nil
}

func (c *RunConfig) expose(rest string) error {
	list, err := c.words(rest)
	if err != nil {
		return err
	}
	for _, word := range list {
		ports, protocol, found := strings.Cut(word, "/")
		if protocol = strings.ToLower(protocol); !found {
			protocol = "tcp"
		}
		if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			return fmt.Errorf("%q: the protocol is tcp, udp or sctp", clip(word))
		}
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		low, errLow := strconv.ParseUint(first, 10, 16)
		high, errHigh := strconv.ParseUint(last, 10, 16)
		if errLow != nil || errHigh != nil || low == 0 || low > high {
			return fmt.Errorf("%q is not port[-port][/protocol]", clip(word))
		}
		for port := low; port <= high; port++ {
			setIn(&c.ExposedPorts, fmt.Sprintf("%d/%s", port, protocol), struct{}{})
		}
	}
	return nil
}

func (c *RunConfig) volume(rest string) error {
	list, isJSON := jsonWords(rest)
	if !isJSON {
		var err error
		if list, err = c.words(rest); err != nil {
			return err
		}
	}
	for _, dir := range list {
		if strings.TrimSpace(dir) == "" {
			return errors.New("a volume's path is empty")
		}
		setIn(&c.Volumes, dir, struct{}{})
	}
	return nil
}

func (c *RunConfig) workdir(rest string) error {
	// The whole rest is one path: WORKDIR takes spaces without quotes.
	list, err := c.words(`"` + strings.ReplaceAll(strings.Trim(rest, `"`), `"`, `\"`) + `"`)
	if err != nil {
		return err
	}
	if dir := list[0]; path.IsAbs(dir) {
		c.WorkingDir = path.Clean(dir)
	} else {
		c.WorkingDir = path.Join("/", c.WorkingDir, dir)
	}
	return nil
}

func (c *RunConfig) onBuild(rest string) error {
	trigger, _ := cutWord(rest)
	switch strings.ToUpper(trigger) {
	case "ONBUILD", "FROM", "MAINTAINER":
		return fmt.Errorf("%s cannot be a trigger", strings.ToUpper(trigger))
	}
	c.OnBuild = append(c.OnBuild, rest)
	return nil
}

func (c *RunConfig) healthcheck(rest string) error {
	var check Healthcheck
	for {
		word, tail := cutWord(rest)
		option, isOption := strings.CutPrefix(word, "--")
		if !isOption {
			break
		}
		if err := check.option(option); err != nil {
			return err
		}
		rest = tail
	}
	kind, command := cutWord(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if command != "" || check.Retries != 0 {
			return errors.New("NONE takes no arguments")
		}
		check.Test = []string{"NONE"}
	case "CMD":
		if command == "" {
			return errors.New("CMD needs a command")
		}
		if list, ok := jsonWords(command); ok {
			check.Test = append([]string{"CMD"}, list...)
		} else {
			check.Test = []string{"CMD-SHELL", command}
		}
	default:
		return errors.New("want [options] CMD command, or NONE")
	}
	c.Healthcheck = &check
	return nil
}

func (h *Healthcheck) option(option string) error {
	name, value, _ := strings.Cut(option, "=")
	if name == "retries" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("--retries=%s is not a number", clip(value))
		}
		h.Retries = n
		return nil
	}
	fields := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}
	field, known := fields[name]
	if !known {
		return fmt.Errorf("unknown option --%s", clip(name))
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > 0 && d < time.Millisecond {
		return fmt.Errorf("--%s=%s is not a duration of 1ms or more", name, clip(value))
	}
	*field = d
	return nil
}
