package container

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceList is what a cgroup of the devices controller of version 1 is told (admin-guide/cgroup-v1/devices.rst).
// It allows at least what the rules do, and is for who looks there: it is the filter that decides (see
// deviceFilter). The controller forgets in silence what contradicts a part of an exception.
type deviceList struct {
	all   bool     // everything is allowed
	allow []string // lines of devices.allow, if not
}

// listDevices gives the list for rules that were compiled before, so that nothing is wrong with them.
func listDevices(rules []specs.LinuxDeviceCgroup) (l deviceList) {
	for _, r := range rules {
		bits, err := accessBits(r.Access)
		wide := r.Type == "" || r.Type == "a"
		switch {
		case err != nil: // it was refused before
		case wide && bits == bpfAll:
			l = deviceList{all: r.Allow}
		case l.all:
		case wide && r.Allow:
			l.add("b *:* "+r.Access, "c *:* "+r.Access)
		case wide: // a part of every exception
		case r.Allow:
			l.add(deviceLine(r))
		default:
			l.allow = slices.DeleteFunc(l.allow, func(line string) bool { return line == deviceLine(r) })
		}
	}
	return l
}

func (l *deviceList) add(lines ...string) { l.allow = append(l.allow, lines...) }

func deviceLine(r specs.LinuxDeviceCgroup) string {
	access := r.Access
	if access == "" {
		access = "rwm"
	}
	return r.Type + " " + deviceNumber(r.Major) + ":" + deviceNumber(r.Minor) + " " + access
}

func deviceNumber(n *int64) string {
	if n == nil || *n == -1 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}

// listDevices has the rules in a cgroup of the devices controller too, where the host has that.
func (c *cgroup) listDevices(h hierarchies, name string, rules []specs.LinuxDeviceCgroup) error {
	if h.legacyOf("devices") == nil {
		return nil
	}
	err := c.makeLegacy(h, name, "devices")
	if err == nil {
		err = listDevices(rules).write(c.legacyDir("devices"))
	}
	if mayNot(err) {
		return nil
	}
	return err
}

// write tells a new cgroup. What a cgroup above does not allow, this one cannot.
func (l deviceList) write(dir string) error {
	if l.all {
		return orForbidden(writeCgroup(dir+"/devices.allow", "a"))
	}
	if err := writeCgroup(dir+"/devices.deny", "a"); err != nil {
		return err
	}
	for _, line := range l.allow {
		if err := orForbidden(writeCgroup(dir+"/devices.allow", line)); err != nil {
			return err
		}
	}
	return nil
}

func orForbidden(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// namesDevices tells whether rules are about more than all devices at once, as those are that every
// container has: who names devices may look for them.
func namesDevices(rules []specs.LinuxDeviceCgroup) bool {
	return slices.ContainsFunc(rules, func(r specs.LinuxDeviceCgroup) bool { return r.Allow })
}
