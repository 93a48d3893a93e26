// Package explain says what it means that the kernel refused something that a network needs.
package explain

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Kernel is one part of the kernel.
type Kernel struct {
	Unable error  // is wrapped if it is not there, or this program may not use it
	Part   string // what a user reads of it
	Absent []syscall.Errno
}

// Error gives err with what was to be done, and what the user can do; nil for nil.
func (k Kernel) Error(what string, err error) error {
	is := func(e syscall.Errno) bool { return errors.Is(err, e) }
	switch {
	case err == nil:
		return nil
	case is(syscall.EPERM), is(syscall.EACCES):
		return fmt.Errorf("%w: %s: %w (CAP_NET_ADMIN is missing): use --network host", k.Unable, what, err)
	case slices.ContainsFunc(k.Absent, is):
		return fmt.Errorf("%w: %s: %w (the kernel lacks %s): use --network none or host", k.Unable, what, err, k.Part)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}
