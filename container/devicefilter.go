package container

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// builtinDeviceRules are what every container may do, whatever the specification's rules say: make
// nodes, which does not open what they stand for, and use the devices it has. The same as runc's
// AllowedDevices.
func builtinDeviceRules() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	rules := []specs.LinuxDeviceCgroup{
		rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
		rule("c", 5, 1, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, -1, "rwm"),
	}
	for _, d := range defaultDevices() {
		rules = append(rules, rule("c", int64(d.major), int64(d.minor), "rwm"))
	}
	return rules
}

// Constants of linux/bpf.h: struct bpf_cgroup_dev_ctx has access<<16|type, major and minor.
const (
	bpfDevBlock = 1
	bpfDevChar  = 2

	bpfMknod = 1
	bpfRead  = 2
	bpfWrite = 4
	bpfAll   = bpfMknod | bpfRead | bpfWrite
)

// Registers and operations of BPF: Documentation/bpf/standardization/instruction-set.rst.
const (
	result = 0 // also scratch before
	ctx    = 1
	typ    = 2
	access = 3
	major  = 4
	minor  = 5

	loadWord = 0x61 // dst = *(u32 *)(src + off)
	andImm   = 0x57
	shiftImm = 0x77 // dst >>= imm
	moveImm  = 0xb7
	moveReg  = 0xbf
	jumpEq   = 0x15 // to off, if dst == imm
	jumpNe   = 0x55 // to off, if dst != imm
	jumpNeR  = 0x5d // to off, if dst != src
	exit     = 0x95
)

// bpfProgram is an array of struct bpf_insn being written.
type bpfProgram []byte

func (p *bpfProgram) add(code, dst, src byte, off int16, imm int32) {
	regs := dst | src<<4
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // bit fields begin at the other end
		regs = dst<<4 | src
	}
	*p = append(*p, code, regs)
	*p = binary.NativeEndian.AppendUint16(*p, uint16(off))
	*p = binary.NativeEndian.AppendUint32(*p, uint32(imm))
}

// deviceFilter compiles rules about devices to a BPF program that gives 1 for what is allowed. The
// last rule that is about an access decides; without any it is denied.
func deviceFilter(rules []specs.LinuxDeviceCgroup) ([]byte, error) {
	var p bpfProgram
	p.add(loadWord, typ, ctx, 0, 0)
	p.add(andImm, typ, 0, 0, 0xffff)
	p.add(loadWord, access, ctx, 0, 0)
	p.add(shiftImm, access, 0, 0, 16)
	p.add(loadWord, major, ctx, 4, 0)
	p.add(loadWord, minor, ctx, 8, 0)
	for _, r := range slices.Backward(rules) {
		body, always, err := deviceRule(r)
		if err != nil {
			return nil, err
		}
		p = append(p, body...)
		if always {
			return p, nil // the kernel refuses code that is never reached
		}
	}
	p.add(moveImm, result, 0, 0, 0)
	p.add(exit, 0, 0, 0, 0)
	return p, nil
}

// condition is a jump over the rest of a rule that is not about the access at hand.
type condition struct {
	code, dst, src byte
	imm            int32
}

// deviceRule gives the code of one rule, and whether it is about every access there is.
func deviceRule(r specs.LinuxDeviceCgroup) (code []byte, always bool, err error) {
	bits, err := accessBits(r.Access)
	if err != nil {
		return nil, false, err
	}
	var conditions []condition
	switch r.Type {
	case "", "a": // major and minor have no meaning, as in runc
	case "b", "c":
		t := int32(bpfDevChar)
		if r.Type == "b" {
			t = bpfDevBlock
		}
		conditions = append(conditions, condition{code: jumpNe, dst: typ, imm: t})
		for reg, n := range map[byte]*int64{major: r.Major, minor: r.Minor} {
			if n == nil || *n == -1 {
				continue
			}
			if *n < 0 || *n > math.MaxInt32 {
				return nil, false, fmt.Errorf("device rule: %w: number %d", ErrSpec, *n)
			}
			conditions = append(conditions, condition{code: jumpNe, dst: reg, imm: int32(*n)})
		}
	default:
		return nil, false, fmt.Errorf("device rule: %w: type %q", ErrSpec, r.Type)
	}
	// Map order is random: the program must not be.
	slices.SortFunc(conditions, func(a, b condition) int { return int(a.dst) - int(b.dst) })
	return assembleRule(conditions, bits, r.Allow), len(conditions) == 0 && bits == bpfAll, nil
}

// assembleRule gives: if the conditions hold and the access is one the rule is about, return allow.
// A rule that allows is about accesses of its kinds only, one that denies about those with any.
func assembleRule(conditions []condition, bits int32, allow bool) []byte {
	length := len(conditions) + 2
	if bits != bpfAll {
		length += 3
	}
	var p bpfProgram
	rest := func() int16 { return int16(length - len(p)/8 - 1) }
	for _, c := range conditions {
		p.add(c.code, c.dst, c.src, rest(), c.imm)
	}
	if bits != bpfAll {
		p.add(moveReg, result, access, 0, 0)
		p.add(andImm, result, 0, 0, bits)
		if allow {
			p.add(jumpNeR, result, access, rest(), 0)
		} else {
			p.add(jumpEq, result, 0, rest(), 0)
		}
	}
	verdict := int32(0)
	if allow {
		verdict = 1
	}
	p.add(moveImm, result, 0, 0, verdict)
	p.add(exit, 0, 0, 0, 0)
	return p
}

func accessBits(access string) (bits int32, err error) {
	if strings.Trim(access, "rwm") != "" {
		return 0, fmt.Errorf("device rule: %w: access %q", ErrSpec, access)
	}
	if access == "" {
		return bpfAll, nil
	}
	for i, c := range []string{"m", "r", "w"} {
		if strings.Contains(access, c) {
			bits |= []int32{bpfMknod, bpfRead, bpfWrite}[i]
		}
	}
	return bits, nil
}
