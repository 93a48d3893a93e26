package container

import (
	"fmt"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// legacyDevices are rules about devices as cgroup version 1 keeps them: what is so for all devices,
// and exceptions (Documentation/admin-guide/cgroup-v1/devices.rst).
type legacyDevices struct {
	allow      bool
	exceptions []legacyDevice
}

// legacyDevice is about devices of one type; a number of -1 stands for all.
type legacyDevice struct {
	block        bool
	major, minor int64
	bits         int32
}

// setLegacyDevices gives a cgroup of version 1 its devices.
func setLegacyDevices(dir string, rules []specs.LinuxDeviceCgroup) error {
	d, err := newLegacyDevices(rules)
	if err != nil {
		return err
	}
	file, exception := dir+"/devices.deny", dir+"/devices.allow"
	if d.allow {
		file, exception = exception, file
	}
	if err := writeCgroup(file, "a"); err != nil {
		return err
	}
	for _, e := range d.exceptions {
		if err := writeCgroup(exception, e.String()); err != nil {
			return fmt.Errorf("device rule %q: %w", e, err)
		}
	}
	return nil
}

// newLegacyDevices sorts rules of which the last that is about an access decides. The kernel would take
// them one after the other, but forgets in silence those that contradict only a part of an exception;
// here that is an error.
func newLegacyDevices(rules []specs.LinuxDeviceCgroup) (*legacyDevices, error) {
	d := &legacyDevices{}
	for _, r := range rules {
		if _, always, err := deviceRule(r); err != nil {
			return nil, err
		} else if always {
			*d = legacyDevices{allow: r.Allow}
			continue
		}
		bits, err := accessBits(r.Access)
		if err != nil {
			return nil, err
		}
		n := legacyDevice{block: r.Type == "b", major: -1, minor: -1, bits: bits}
		both := []legacyDevice{n}
		if r.Type == "b" || r.Type == "c" {
			set(&both[0].major, r.Major)
			set(&both[0].minor, r.Minor)
		} else {
			n.block = true
			both = append(both, n)
		}
		for _, n := range both {
			if err := d.add(n, r.Allow); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func (d *legacyDevices) add(n legacyDevice, allow bool) error {
	if allow != d.allow {
		d.exceptions = append(d.exceptions, n)
		return nil
	}
	for i, e := range d.exceptions {
		switch {
		case e.bits&n.bits == 0 || !n.meets(e):
		case n.covers(e):
			d.exceptions[i].bits &^= n.bits
		default:
			return fmt.Errorf("device rule %q: %w: cgroup v1 cannot make an exception of a part of %q", n, ErrUnsupported, e)
		}
	}
	d.exceptions = slices.DeleteFunc(d.exceptions, func(e legacyDevice) bool { return e.bits == 0 })
	return nil
}

// meets tells whether there are devices that both are about.
func (n legacyDevice) meets(e legacyDevice) bool {
	same := func(a, b int64) bool { return a == -1 || b == -1 || a == b }
	return n.block == e.block && same(n.major, e.major) && same(n.minor, e.minor)
}

// covers tells whether it is about all devices that e is about.
func (n legacyDevice) covers(e legacyDevice) bool {
	all := func(a, b int64) bool { return a == -1 || a == b }
	return n.block == e.block && all(n.major, e.major) && all(n.minor, e.minor)
}

// String gives it as the kernel takes it.
func (n legacyDevice) String() string {
	number := func(i int64) string {
		if i == -1 {
			return "*"
		}
		return strconv.FormatInt(i, 10)
	}
	kind, access := "c", ""
	if n.block {
		kind = "b"
	}
	for i, c := range []string{"m", "r", "w"} {
		if n.bits&([]int32{bpfMknod, bpfRead, bpfWrite}[i]) != 0 {
			access += c
		}
	}
	return fmt.Sprintf("%s %s:%s %s", kind, number(n.major), number(n.minor), access)
}
