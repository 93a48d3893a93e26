// Package seccomp turns the seccomp section of a runtime spec into the program the kernel runs,
// in pure Go, and holds Docker's default profile compiled ahead of time.
//
// A program is a binary search over ranges of system call numbers, so a call costs about eight
// comparisons whatever its number is; libseccomp's is a list. What it decides is what runc with
// libseccomp decides for the same section, including runc's rule that a call newer than all the
// profile speaks of gives ENOSYS, so that programs fall back to an older call.
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var (
	// ErrInvalid is a seccomp section that says something that has no meaning.
	ErrInvalid = errors.New("invalid seccomp profile")
	// ErrUnsupported is a machine tarn has no system call table of.
	ErrUnsupported = errors.New("seccomp not supported")
)

// Return values of a filter (linux/seccomp.h) and the two errnos it needs; both have the same
// number on every machine but mips, see errnoNoSys.
const (
	retKillThread  = 0x00000000
	retKillProcess = 0x80000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	errnoPerm = 1
	// MaxInstructions is the longest program the kernel takes (BPF_MAXINSNS).
	MaxInstructions = 4096
)

// Offsets into struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// Compile gives the program of a profile as an array of struct sock_filter, ready for seccomp(2),
// for the machine with that GOARCH. Names of system calls a machine does not have are passed
// over, as runc does; further architectures without a table here are too, and their calls are
// killed as those of every architecture the profile does not name.
func Compile(profile *specs.LinuxSeccomp, goarch string) ([]byte, error) {
	native, err := nativeArch(goarch)
	if err != nil {
		return nil, err
	}
	fallback, err := actionValue(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	c := &compiler{profile: profile, fallback: fallback, assembler: newAssembler(), decided: make(map[string]label)}
	start, err := c.program(native)
	if err != nil {
		return nil, err
	}
	if int(start)+1 > MaxInstructions {
		return nil, fmt.Errorf("%w: %d instructions, the kernel takes %d", ErrInvalid, int(start)+1, MaxInstructions)
	}
	return c.bytes(start, c.order), nil
}

type compiler struct {
	*assembler
	profile  *specs.LinuxSeccomp
	fallback uint32
	order    binary.ByteOrder
	decided  map[string]label
}

// program assembles the choice of architecture and below it each one's search.
func (c *compiler) program(native specs.Arch) (label, error) {
	arches := append([]specs.Arch{native}, c.profile.Architectures...)
	var searches []search
	for _, arch := range arches {
		m, ok := machineOf(arch)
		if !ok || slices.ContainsFunc(searches, func(s search) bool { return s.arch == arch }) {
			continue
		}
		if arch == native {
			c.order = m.order
		}
		ranges, err := c.ranges(m)
		if err != nil {
			return 0, err
		}
		searches = append(searches, search{arch: arch, audit: m.audit, ranges: ranges})
	}
	searches = shareX32(searches)
	next := c.ret(retKillThread)
	// The native architecture stands first in the program, so it is assembled last.
	for _, s := range slices.Backward(searches) {
		body := c.load(offNumber, c.search(s.ranges))
		next = c.branch(opJumpEq, s.audit, body, next)
	}
	return c.load(offArch, next), nil
}

// search is the decision for each system call number of one interface.
type search struct {
	arch   specs.Arch
	audit  uint32
	ranges []decision
}

// shareX32 puts x32's numbers behind those of x86_64, whose audit value they share. Without x32 in
// the profile they are killed there, as libseccomp does.
func shareX32(searches []search) []search {
	var x32 []decision
	searches = slices.DeleteFunc(searches, func(s search) bool {
		if s.arch == specs.ArchX32 {
			x32 = s.ranges
			return true
		}
		return false
	})
	for i, s := range searches {
		if s.arch != specs.ArchX86_64 {
			continue
		}
		low := slices.DeleteFunc(slices.Clone(s.ranges), func(d decision) bool { return d.first >= x32Bit })
		high := []decision{{first: x32Bit, value: retKillThread}}
		if x32 != nil {
			high = slices.DeleteFunc(slices.Clone(x32), func(d decision) bool { return d.first < x32Bit })
			if len(high) == 0 || high[0].first > x32Bit {
				// The range that holds the first x32 number began below it: all of it is the fallback.
				high = slices.Insert(high, 0, decision{first: x32Bit, value: x32[0].value})
			}
		}
		searches[i].ranges = append(low, high...)
	}
	return searches
}

// decision is what happens to the calls from first up to the next decision's first.
type decision struct {
	first uint32
	value uint32 // SECCOMP_RET_ value where no rule fits
	rules []rule // rules on arguments, tried in order
}

// rule gives value when all conditions hold.
type rule struct {
	conditions []specs.LinuxSeccompArg
	value      uint32
}

// ranges lists the decisions for one machine, ascending, without gaps, the first at 0.
func (c *compiler) ranges(m machine) ([]decision, error) {
	calls, err := c.calls(m)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint32, 0, len(calls))
	for n := range calls {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	ranges := []decision{{first: 0, value: c.fallback}}
	add := func(d decision) {
		last := &ranges[len(ranges)-1]
		if len(d.rules) == 0 && len(last.rules) == 0 && last.value == d.value {
			return
		}
		if last.first == d.first {
			*last = d
			return
		}
		ranges = append(ranges, d)
	}
	for _, n := range numbers {
		d := calls[n]
		d.first = n
		add(d)
		add(decision{first: n + 1, value: c.fallback})
	}
	if len(numbers) > 0 && c.fallback&^0xffff == retErrno {
		ranges = slices.DeleteFunc(ranges, func(d decision) bool { return d.first > numbers[len(numbers)-1] })
		add(decision{first: numbers[len(numbers)-1] + 1, value: retErrno | errnoNoSys(m)})
	}
	return ranges, nil
}

// errnoNoSys is ENOSYS, which is 89 on mips and 38 elsewhere.
func errnoNoSys(m machine) uint32 {
	if m.audit&0xffff == 8 {
		return 89
	}
	return 38
}

// calls collects the rules of the profile by system call number.
func (c *compiler) calls(m machine) (map[uint32]decision, error) {
	calls := make(map[uint32]decision)
	final := make(map[uint32]bool)
	for _, s := range c.profile.Syscalls {
		value, err := actionValue(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if value == c.fallback {
			continue // as runc does: nothing to add
		}
		alternatives, err := alternatives(s.Args)
		if err != nil {
			return nil, fmt.Errorf("%w (system call %s)", err, s.Names)
		}
		for _, name := range s.Names {
			n, ok := m.number(name)
			if !ok {
				continue
			}
			d, known := calls[n]
			if !known {
				d.value = c.fallback
			}
			if len(alternatives) == 0 && !final[n] {
				d.value, final[n] = value, true
			}
			for _, conditions := range alternatives {
				d.rules = append(d.rules, rule{conditions, value})
			}
			calls[n] = d
		}
	}
	for n, d := range calls {
		// A rule that decides as the call without it does says nothing.
		if !slices.ContainsFunc(d.rules, func(r rule) bool { return r.value != d.value }) {
			d.rules = nil
			calls[n] = d
		}
	}
	return calls, nil
}

// alternatives splits conditions that name one argument twice: those are alternatives, not both to
// hold, which is how runc has always read them.
func alternatives(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var seen [6]bool
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("%w: argument %d, there are 0 to 5", ErrInvalid, a.Index)
		}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterEqual, specs.OpGreaterThan,
			specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("%w: operator %q", ErrInvalid, a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if len(args) == 0 {
		return nil, nil
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var each [][]specs.LinuxSeccompArg
	for _, a := range args {
		each = append(each, []specs.LinuxSeccompArg{a})
	}
	return each, nil
}

// actionValue gives the SECCOMP_RET_ value of an action.
func actionValue(action specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(errnoPerm)
	if errnoRet != nil {
		if *errnoRet > 0xffff {
			return 0, fmt.Errorf("%w: errno %d", ErrInvalid, *errnoRet)
		}
		data = uint32(*errnoRet)
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActErrno:
		return retErrno | data, nil
	case specs.ActTrace:
		return retTrace | data, nil
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActNotify:
		return retNotify, nil
	default:
		return 0, fmt.Errorf("%w: action %q", ErrInvalid, action)
	}
}

// search assembles the binary search over ranges; the system call number is loaded.
func (c *compiler) search(ranges []decision) label {
	if len(ranges) == 1 {
		return c.decide(ranges[0])
	}
	half := len(ranges) / 2
	high := c.search(ranges[half:])
	low := c.search(ranges[:half])
	return c.branch(opJumpGe, ranges[half].first, high, low)
}

// decide assembles the rules of one call. The same rules of another interface share the code.
func (c *compiler) decide(d decision) label {
	key := fmt.Sprint(d.value, d.rules)
	if l, ok := c.decided[key]; ok {
		return l
	}
	next := c.ret(d.value)
	for end := len(d.rules); end > 0; {
		begin := end - 1
		for begin > 0 && sameWord(d.rules[begin-1], d.rules[begin]) {
			begin--
		}
		next = c.oneOf(d.rules[begin:end], next)
		end = begin
	}
	c.decided[key] = next
	return next
}

// sameWord tells whether two rules only compare one argument with values that share their high
// word, as long lists of allowed values do: one load then serves them all.
func sameWord(a, b rule) bool {
	if len(a.conditions) != 1 || len(b.conditions) != 1 || a.value != b.value {
		return false
	}
	x, y := a.conditions[0], b.conditions[0]
	return x.Op == specs.OpEqualTo && y.Op == specs.OpEqualTo && x.Index == y.Index && x.Value>>32 == y.Value>>32
}

// oneOf assembles rules of which any may hold; more than one are sameWord.
func (c *compiler) oneOf(rules []rule, no label) label {
	yes := c.ret(rules[0].value)
	if len(rules) == 1 {
		for _, cond := range slices.Backward(rules[0].conditions) {
			yes = c.condition(cond, yes, no)
		}
		return yes
	}
	low, high := c.halves(rules[0].conditions[0])
	next := no
	for _, r := range slices.Backward(rules) {
		next = c.branch(opJumpEq, uint32(r.conditions[0].Value), yes, next)
	}
	return c.load(high, c.branch(opJumpEq, uint32(rules[0].conditions[0].Value>>32), c.load(low, next), no))
}

// halves gives the offsets of an argument's low and high word.
func (c *compiler) halves(arg specs.LinuxSeccompArg) (low, high uint32) {
	low = uint32(offArgs + 8*arg.Index)
	if c.order == binary.BigEndian {
		return low + 4, low
	}
	return low, low + 4
}

// condition assembles the comparison of one 64-bit argument, in two halves.
func (c *compiler) condition(arg specs.LinuxSeccompArg, yes, no label) label {
	low, high := c.halves(arg)
	hi, lo := uint32(arg.Value>>32), uint32(arg.Value)
	switch arg.Op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual:
		yes, no = no, yes // the opposite of the three below
	case specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
	}
	switch arg.Op {
	case specs.OpMaskedEqual:
		hi2, lo2 := uint32(arg.ValueTwo>>32), uint32(arg.ValueTwo)
		l := c.load(low, c.and(lo, c.branch(opJumpEq, lo2, yes, no)))
		return c.load(high, c.and(hi, c.branch(opJumpEq, hi2, l, no)))
	case specs.OpEqualTo, specs.OpNotEqual:
		l := c.load(low, c.branch(opJumpEq, lo, yes, no))
		return c.load(high, c.branch(opJumpEq, hi, l, no))
	case specs.OpGreaterThan, specs.OpLessEqual:
		return c.greater(opJumpGt, high, low, hi, lo, yes, no)
	case specs.OpGreaterEqual, specs.OpLessThan:
	}
	return c.greater(opJumpGe, high, low, hi, lo, yes, no)
}

func (c *compiler) greater(op uint16, high, low, hi, lo uint32, yes, no label) label {
	l := c.load(low, c.branch(op, lo, yes, no))
	return c.load(high, c.branch(opJumpGt, hi, yes, c.branch(opJumpEq, hi, l, no)))
}
