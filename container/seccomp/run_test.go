package seccomp

import (
	"encoding/binary"
	"testing"
)

// call is what the kernel shows a filter of one system call (struct seccomp_data).
type call struct {
	number uint32
	audit  uint32
	args   [6]uint64
}

// run does what the kernel does with a program: it is the reference for what a filter decides.
func run(t *testing.T, program []byte, order binary.ByteOrder, c call) uint32 {
	t.Helper()
	var data [64]byte
	order.PutUint32(data[offNumber:], c.number)
	order.PutUint32(data[offArch:], c.audit)
	for i, arg := range c.args {
		order.PutUint64(data[offArgs+8*i:], arg)
	}
	var a uint32
	for pc, steps := 0, 0; ; pc, steps = pc+1, steps+1 {
		if (pc+1)*instructionSize > len(program) || steps > MaxInstructions {
			t.Fatalf("program runs out of its end at %d", pc)
		}
		i := program[pc*instructionSize:]
		k := order.Uint32(i[4:])
		yes := false
		switch order.Uint16(i) {
		case opLoadAbs:
			a = order.Uint32(data[k:])
			continue
		case opAnd:
			a &= k
			continue
		case opJump:
			pc += int(k)
			continue
		case opReturn:
			return k
		case opJumpEq:
			yes = a == k
		case opJumpGt:
			yes = a > k
		case opJumpGe:
			yes = a >= k
		default:
			t.Fatalf("instruction %d: code %#x", pc, order.Uint16(i))
		}
		if yes {
			pc += int(i[2])
		} else {
			pc += int(i[3])
		}
	}
}
