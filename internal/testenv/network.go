package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// envOwnNetwork says that this program is in a network namespace of its own.
const envOwnNetwork = "TARN_TEST_OWN_NETWORK"

// InOwnNetwork has a test program of root's go on in a network namespace of its own, with nothing but
// the loopback interface, by executing itself again: what its containers do to the "host's" devices, routes and
// packet filter, the machine and other tests do not see. It is called before any test.
func InOwnNetwork() {
	if os.Geteuid() != 0 || os.Getenv(envOwnNetwork) != "" {
		return
	}
	err := func() error {
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return err
		}
		// The program is a child of this very thread.
		if out, err := exec.CommandContext(context.Background(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %s: %w", out, err)
		}
		if err := os.Setenv(envOwnNetwork, "1"); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}()
	panic(fmt.Sprint("no network namespace for tests: ", err))
}
