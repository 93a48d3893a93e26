package container_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

// A kernel that lacks what containers need is told of by what it lacks.
func TestKernelsWithout(t *testing.T) {
	for call, since := range map[string]string{
		"openat2": "5.6", "clone3": "5.3", "mount_setattr": "5.12", "pidfd_open": "5.3", "fsopen": "5.2", "open_tree": "5.2",
		"move_mount": "5.2", "close_range": "5.9", "seccomp": "3.17",
	} {
		t.Run(call, func(t *testing.T) {
			inPrivate(t, setting{}, func(t *testing.T) {
				b := newBox(t, "exit", "0")
				before := host(t)
				root := b.openRoot()
				deny(t, []string{call}, syscall.ENOSYS)
				_, err := b.startIn(t.Context(), root)
				require.ErrorIs(t, err, container.ErrUnsupported)
				require.ErrorContains(t, err, "not supported by this kernel: "+call+", which Linux "+since+" has")
				before.unchanged(t)
			})
		})
	}
}

// What a container can do without, it does without.
func TestKernelsWithoutExtras(t *testing.T) {
	for _, call := range []string{"keyctl"} {
		t.Run(call, func(t *testing.T) {
			inPrivate(t, setting{}, func(t *testing.T) {
				b := newBox(t, "exit", "0")
				deny(t, []string{call}, syscall.ENOSYS)
				r, err := b.run()
				require.NoError(t, err)
				require.Zero(t, r.status, r.errOut)
			})
		})
	}
}
