package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is where a program's arguments lie: outside of Go's heap, at one address here and in every child,
// whether that shares the rest of our memory or has a copy. So what is written here after the child was
// made, it sees as well ([Spawned.Continue]).
type memory struct {
	mapped []byte
	used   int
	err    error // the first; what could not be placed is somewhere else
}

// memorySize is reserved, and costs nothing until it is used. Linux takes no more than 6 MB of arguments
// and environment (execve(2), "Limits on size of arguments and environment").
const memorySize = 8 << 20

// take gives zeroed memory that is aligned for anything.
func (m *memory) take(size int) unsafe.Pointer {
	if m.mapped == nil && m.err == nil {
		m.mapped, m.err = unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	}
	const align = 16
	size = max(size+align-1, align) &^ (align - 1)
	if m.err == nil && size > len(m.mapped)-m.used {
		m.err = syscall.E2BIG
	}
	if m.err != nil {
		return unsafe.Pointer(&make([]uint64, size/8)[0])
	}
	at := unsafe.Pointer(&m.mapped[m.used])
	m.used += size
	return at
}

func (m *memory) release() {
	if m.mapped != nil {
		_ = unix.Munmap(m.mapped)
		m.mapped, m.err = nil, errors.New("the program is closed")
	}
}

func (m *memory) check() error {
	if m.err != nil {
		return fmt.Errorf("prepare a process: %w", m.err)
	}
	return nil
}

// place gives a copy of a value, without pointers to Go's heap in it, that the child sees.
func place[T any](p *Program, v T) *T {
	at := (*T)(p.take(int(unsafe.Sizeof(v))))
	*at = v
	return at
}

// pin gives the address of such a copy.
func pin[T any](p *Program, v T) uintptr { return uintptr(unsafe.Pointer(place(p, v))) }

// list gives a copy of a list, with a capacity of one at least.
func list[T any](p *Program, values []T) []T {
	var v T
	at := (*T)(p.take(max(len(values), 1) * int(unsafe.Sizeof(v))))
	copied := unsafe.Slice(at, max(len(values), 1))
	copy(copied, values)
	return copied[:len(values):len(copied)]
}

// str gives the address of a copy of s that ends with NUL. A NUL in s cuts it.
func (p *Program) str(s string) uintptr {
	at := p.take(len(s) + 1)
	copy(unsafe.Slice((*byte)(at), len(s)), s)
	return uintptr(at)
}

// strs gives the address of what execve(2) takes as arguments and environment.
func (p *Program) strs(strings []string) uintptr {
	ptrs := make([]uintptr, 0, len(strings)+1)
	for _, s := range strings {
		ptrs = append(ptrs, p.str(s))
	}
	return uintptr(unsafe.Pointer(&list(p, append(ptrs, 0))[0]))
}

// calls gives the calls of a part of the program as the child takes them.
func (p *Program) calls(ops []op) []call {
	calls := list(p, make([]call, len(ops)))
	for i := range ops {
		calls[i] = ops[i].call
	}
	return calls
}

// reportPage is memory that is shared with children, also with those that have a copy of the rest.
func reportPage() ([]byte, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	return page, nil
}
