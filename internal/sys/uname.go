package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Machine is what uname(2) says.
type Machine struct {
	Name, Release, Architecture string // of the host, of the kernel, as "x86_64"
}

// Uname asks.
func Uname() (Machine, error) {
	var u unix.Utsname
	err := os.NewSyscallError("uname", unix.Uname(&u))
	return Machine{unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])}, err
}
