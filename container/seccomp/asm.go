package seccomp

import "encoding/binary"

// Instruction codes of classic BPF that a seccomp filter needs
// (linux/bpf_common.h, linux/filter.h).
const (
	opLoadAbs = 0x20 // BPF_LD  | BPF_W   | BPF_ABS
	opJump    = 0x05 // BPF_JMP | BPF_JA
	opJumpEq  = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opJumpGt  = 0x25 // BPF_JMP | BPF_JGT | BPF_K
	opJumpGe  = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opAnd     = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opReturn  = 0x06 // BPF_RET | BPF_K
)

// instructionSize is the size of one struct sock_filter in bytes.
const instructionSize = 8

// instruction is one struct sock_filter (linux/filter.h).
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// label names an instruction that was already assembled: its distance from the end of the program.
type label int

// assembler builds a program from its last instruction to its first. Classic BPF only jumps
// forward, so everything an instruction may jump to is known when it is added, and a distance
// over the 8 bits of a conditional jump is bridged on the spot.
type assembler struct {
	reversed []instruction
	returns  map[uint32]label
}

func newAssembler() *assembler {
	return &assembler{returns: make(map[uint32]label)}
}

func (a *assembler) add(i instruction) label {
	a.reversed = append(a.reversed, i)
	return label(len(a.reversed) - 1)
}

// distance tells how many instructions the next one added has to skip to reach target.
func (a *assembler) distance(target label) int {
	return len(a.reversed) - int(target) - 1
}

// ret gives the instruction that ends the program with the given SECCOMP_RET_ value.
func (a *assembler) ret(value uint32) label {
	l, ok := a.returns[value]
	if !ok {
		l = a.add(instruction{code: opReturn, k: value})
		a.returns[value] = l
	}
	return l
}

// load adds a load of 4 bytes of struct seccomp_data, followed by what is at next.
func (a *assembler) load(offset uint32, next label) label {
	a.follow(next)
	return a.add(instruction{code: opLoadAbs, k: offset})
}

// and adds "A &= mask", followed by what is at next.
func (a *assembler) and(mask uint32, next label) label {
	a.follow(next)
	return a.add(instruction{code: opAnd, k: mask})
}

// follow makes target the instruction that the next one added falls through to.
func (a *assembler) follow(target label) {
	if d := a.distance(target); d != 0 {
		a.add(instruction{code: opJump, k: uint32(d)})
	}
}

// branch adds a conditional jump.
func (a *assembler) branch(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	// The second bridge moves the first target one further away, so ask for one less.
	if a.distance(yes) >= 0xff {
		yes = a.add(instruction{code: opJump, k: uint32(a.distance(yes))})
	}
	if a.distance(no) > 0xff {
		no = a.add(instruction{code: opJump, k: uint32(a.distance(no))})
	}
	return a.add(instruction{code: op, k: k, jt: uint8(a.distance(yes)), jf: uint8(a.distance(no))})
}

// bytes gives the program as an array of struct sock_filter that begins at start.
func (a *assembler) bytes(start label, order binary.ByteOrder) []byte {
	program := make([]byte, 0, (int(start)+1)*instructionSize)
	for n := int(start); n >= 0; n-- {
		i := a.reversed[n]
		var b [instructionSize]byte
		order.PutUint16(b[0:], i.code)
		b[2], b[3] = i.jt, i.jf
		order.PutUint32(b[4:], i.k)
		program = append(program, b[:]...)
	}
	return program
}
