package container

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// explainUnsupported says what a kernel lacks if that may be why something failed: "function not
// implemented" tells nobody what to do.
func explainUnsupported(err error) error {
	if !errors.Is(err, syscall.ENOSYS) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	for _, f := range sys.Features() {
		if !f.Has() {
			return fmt.Errorf("%w by this kernel: %s, which Linux %s has unless it was built without: %w", ErrUnsupported, f.Name, f.Since, err)
		}
	}
	return err
}
