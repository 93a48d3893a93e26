package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

func kill(_ context.Context, r *runtime, args []string) (int, error) {
	var all bool
	flags := newFlags("kill")
	flags.BoolVar(&all, "all", false, "send it to all processes of the container")
	flags.BoolVar(&all, "a", false, "send it to all processes of the container")
	rest, err := parse(flags, args, 1, 2)
	if err != nil {
		return 1, err
	}
	sig := syscall.SIGTERM
	if len(rest) > 1 {
		if sig, err = parseSignal(rest[1]); err != nil {
			return 1, err
		}
	}
	h, err := r.hold(rest[0])
	if err != nil {
		return 1, err
	}
	defer h.close()
	if all {
		return 0, h.signalAll(sig)
	}
	pidfd, err := openProcess(h.record)
	if errors.Is(err, os.ErrProcessDone) {
		return 1, errNotRunning(h.ID)
	}
	if err != nil {
		return 1, err
	}
	defer pidfd.Close()
	if err := sys.SignalPidFD(pidfd, sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			err = errNotRunning(h.ID)
		}
		return 1, err
	}
	return 0, nil
}

// errNotRunning has runc's words: engines look for them.
func errNotRunning(id string) error { return fmt.Errorf("%s: container not running", id) }

// signalAll signals every process of a container; one that ends meanwhile is none. New ones are
// found as long as there are any.
func (h *held) signalAll(sig syscall.Signal) error {
	for signaled := map[int]bool{}; ; {
		pids, err := container.Processes(h.Cgroup)
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if signaled[pid] {
				continue
			}
			fresh, signaled[pid] = true, true
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
		}
		if !fresh {
			return nil
		}
	}
}

// parseSignal takes a signal by its number or its name; 0 only asks whether there is the process.
func parseSignal(name string) (syscall.Signal, error) {
	if name == "0" {
		return 0, nil
	}
	sig, ok := sys.ParseSignal(name)
	if !ok {
		return 0, fmt.Errorf("unknown signal %q", name)
	}
	return sig, nil
}

func remove(ctx context.Context, r *runtime, args []string) (int, error) {
	var force bool
	flags := newFlags("delete")
	flags.BoolVar(&force, "force", false, "kill the container if it runs; none is no error")
	flags.BoolVar(&force, "f", false, "kill the container if it runs; none is no error")
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	h, err := r.hold(rest[0])
	if errors.Is(err, errNotFound) && force {
		return 0, r.removeRuins(rest[0])
	}
	if err != nil {
		return 1, err
	}
	defer h.close()
	status, err := r.status(h.record)
	if err != nil {
		return 1, err
	}
	if status != specs.StateStopped {
		if !force && status != specs.StateCreated {
			return 1, fmt.Errorf("cannot delete container %s that is not stopped: %s (--force kills it)", h.ID, status)
		}
		if err := h.end(ctx); err != nil {
			return 1, err
		}
	}
	return 0, h.destroyed(ctx, r)
}

// removeRuins removes the directory of a container whose creator was killed.
func (r *runtime) removeRuins(id string) error {
	h, err := lockDir(id, r.root+"/"+id)
	if errors.Is(err, errNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.close()
	return h.remove()
}

// endWait bounds how long a killed container gets to end: its first process waits in the kernel for all
// of its pid namespace, which somebody outside may have to reap.
const endWait = 10 * time.Second

// end kills the container's first process, and with it all of its pid namespace.
func (h *held) end(ctx context.Context) error {
	pidfd, err := openProcess(h.record)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	if err := sys.SignalPidFD(pidfd, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endWait, fmt.Errorf("%s was killed, and has not ended within %s", h.ID, endWait))
	defer cancel()
	return sys.AwaitExit(ctx, pidfd)
}

// destroyed takes away what is left of a container that has ended, and runs the hooks for that.
func (h *held) destroyed(ctx context.Context, r *runtime) error {
	spec, _, specErr := readSpec(h.file(configFile))
	if err := h.destroy(); err != nil {
		return err
	}
	if specErr != nil {
		r.log.warn(specErr)
		return nil
	}
	h.poststop(ctx, r, spec)
	return nil
}

// destroy takes away what is left of a container that has ended.
func (h *held) destroy() error {
	return errors.Join(container.RemoveCgroup(h.Cgroup), h.remove())
}

// ended is destroyed for a container that was waited for here, so that its cgroup is gone. It is not
// locked any more, and somebody may have been faster.
func (h *held) ended(ctx context.Context, r *runtime, spec *specs.Spec) error {
	if err := h.relock(); err != nil {
		if errors.Is(err, errNotFound) {
			return nil
		}
		return err
	}
	if err := h.remove(); err != nil {
		return err
	}
	h.poststop(ctx, r, spec)
	return nil
}

func (h *held) poststop(ctx context.Context, r *runtime, spec *specs.Spec) {
	state := h.hookState(specs.StateStopped)
	state.Pid = 0
	r.log.warn(container.PoststopHooks(ctx, spec, state))
}
