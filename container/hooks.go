package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// maxHookOutput bounds what is kept of what a hook prints: its end, for the error.
const maxHookOutput = 4096

// PoststartHooks runs a container's poststart hooks, after its program was started. All run, whatever
// happens to one: the error is something to warn of.
func PoststartHooks(ctx context.Context, spec *specs.Spec, state specs.State) error {
	if spec.Hooks == nil {
		return nil
	}
	return runAllHooks(ctx, "poststart", spec.Hooks.Poststart, state)
}

// PoststopHooks is [PoststartHooks] for after a container was taken away.
func PoststopHooks(ctx context.Context, spec *specs.Spec, state specs.State) error {
	if spec.Hooks == nil {
		return nil
	}
	return runAllHooks(ctx, "poststop", spec.Hooks.Poststop, state)
}

func runAllHooks(ctx context.Context, kind string, hooks []specs.Hook, state specs.State) error {
	var errs []error
	for i := range hooks {
		errs = append(errs, runHooks(ctx, kind, hooks[i:i+1], state, nil))
	}
	return errors.Join(errs...)
}

// StartContainerHooks runs a container's startContainer hooks, for a process that waits
// ([Config.Hold]) and is about to go on. They run in the namespaces of that process, and their paths
// are the container's. An error means that the container must not start.
func StartContainerHooks(ctx context.Context, spec *specs.Spec, state specs.State) error {
	if spec.Hooks == nil || len(spec.Hooks.StartContainer) == 0 {
		return nil
	}
	first, err := sys.PidFD(state.Pid)
	if err != nil {
		return err
	}
	defer first.Close()
	user, err := foreignUser(spec, state.Pid)
	if err != nil {
		return err
	}
	if user != nil {
		defer user.Close()
	}
	done := make(chan error)
	sys.OnOwnThread(func() {
		const kinds = sys.NewMount | sys.NewPID | sys.NewUTS | sys.NewIPC | sys.NewNet | sys.NewCgroup
		err := sys.Unshare(sys.OwnRoot)
		if err == nil {
			err = sys.Setns(first, kinds)
		}
		if err == nil {
			err = runHooks(ctx, "startContainer", spec.Hooks.StartContainer, state, user)
		}
		done <- err
	})
	return <-done
}

// foreignUser opens the user namespace of a container that has one of its own.
func foreignUser(spec *specs.Spec, pid int) (*os.File, error) {
	if !hasNamespace(spec, specs.UserNamespace) {
		return nil, nil //nolint:nilnil // there is none
	}
	return sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/user", pid), sys.NewUser)
}

// hooks are the specification's, which may be none.
func (m *maker) hooks() *specs.Hooks {
	if m.spec.Hooks == nil {
		return &specs.Hooks{}
	}
	return m.spec.Hooks
}

// state is what hooks are told of the container.
func (m *maker) state(status specs.ContainerState, pid int) specs.State {
	s := m.cfg.State
	s.Version, s.Status, s.Pid = specs.Version, status, pid
	return s
}

// createHooks runs the hooks of a container that is being created: two kinds in the caller's
// namespaces, one in the container's, where the root is still the host's.
func (m *maker) createHooks(ctx context.Context, pid int) error {
	h, state := m.hooks(), m.state(specs.StateCreating, pid)
	err := outside(func() error {
		if err := runHooks(ctx, "prestart", h.Prestart, state, nil); err != nil { //nolint:staticcheck // deprecated, and used
			return err
		}
		return runHooks(ctx, "createRuntime", h.CreateRuntime, state, nil)
	})
	if err != nil || len(h.CreateContainer) == 0 {
		return err
	}
	// The thread is in the container's other namespaces; its next children are in these, too. There
	// will be no others.
	first, err := sys.PidFD(pid)
	if err != nil {
		return err
	}
	defer first.Close()
	if err := sys.Setns(first, sys.NewPID|sys.NewCgroup); err != nil {
		return err
	}
	var user *os.File
	if m.namespaces.user != nil {
		user = m.namespaces.user.file
	}
	return runHooks(ctx, "createContainer", h.CreateContainer, state, user)
}

// startContainer runs the hooks of a container that is not held.
func (m *maker) startContainer(ctx context.Context, pid int) error {
	return outside(func() error { return StartContainerHooks(ctx, m.spec, m.state(specs.StateCreated, pid)) })
}

// runHooks runs hooks one after the other, in the calling thread's namespaces, and in user if it is
// not nil.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state specs.State, user *os.File) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if err := runHook(ctx, h, text, user); err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

func checkHook(h specs.Hook) error {
	switch {
	case !filepath.IsAbs(h.Path):
		return fmt.Errorf("%w: the path is not absolute", ErrSpec)
	case h.Timeout != nil && *h.Timeout <= 0:
		return fmt.Errorf("%w: a timeout of %d seconds", ErrSpec, *h.Timeout)
	}
	return nil
}

// runHook runs one hook to its end, with the state as its input.
func runHook(ctx context.Context, h specs.Hook, state []byte, user *os.File) error {
	if err := checkHook(h); err != nil {
		return err
	}
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second,
			fmt.Errorf("it took longer than its timeout of %d s", *h.Timeout))
		defer cancel()
	}
	pipes, err := newHookIO()
	if err != nil {
		return err
	}
	defer pipes.close()
	p := &sys.Program{}
	defer p.Close()
	p.ResetSignals()
	p.NewSession()
	p.Dup(pipes.in, 0)
	p.Dup(pipes.out, 1)
	p.Dup(pipes.out, 2)
	if user != nil {
		p.Enter("setns user", user, sys.NewUser)
		p.BeRoot(sys.GroupsAreFixed(0))
	}
	p.CloseOnExec(3)
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	p.Exec("cannot be executed", h.Path, args, h.Env)
	child, err := sys.Spawn(0, nil, p)
	if err != nil {
		return err
	}
	defer child.Close()
	defer child.PidFD.Close()
	output := pipes.serve(state)
	if err := sys.AwaitExit(ctx, child.PidFD); err != nil {
		_ = syscall.Kill(-child.Pid, syscall.SIGKILL) // its session; it is not reaped yet
		_, _ = sys.WaitPidFD(child.PidFD)
		return context.Cause(ctx)
	}
	status, err := sys.WaitPidFD(child.PidFD)
	if err == nil {
		err = child.Failure()
	}
	if err != nil {
		return err
	}
	return hookError(status, output)
}

func hookError(status syscall.WaitStatus, output func() string) error {
	how := fmt.Sprintf("exit status %d", status.ExitStatus())
	switch {
	case status.Exited() && status.ExitStatus() == 0:
		return nil
	case status.Signaled():
		how = status.Signal().String()
	}
	if words := strings.TrimSpace(output()); words != "" {
		return fmt.Errorf("%s: %s", how, strings.ToValidUTF8(words, "?"))
	}
	return errors.New(how)
}

// hookIO is what a hook reads from and prints to.
type hookIO struct {
	in, feed  *os.File
	out, read *os.File
}

func newHookIO() (h *hookIO, err error) {
	h = &hookIO{}
	if h.in, h.feed, err = os.Pipe(); err != nil {
		return nil, err
	}
	if h.read, h.out, err = os.Pipe(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *hookIO) close() {
	for _, f := range []*os.File{h.in, h.feed, h.out, h.read} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// serve gives the hook its input, and keeps the end of what it prints. The function that it gives
// waits for that, but not for those that a hook has left in the background.
func (h *hookIO) serve(input []byte) (output func() string) {
	_, _ = h.in.Close(), h.out.Close()
	go func() {
		_, _ = h.feed.Write(input) // a hook need not read it
		_ = h.feed.Close()
	}()
	last := make(chan string, 1)
	go func() {
		var kept bytes.Buffer
		buf := make([]byte, maxHookOutput)
		for {
			n, err := h.read.Read(buf)
			kept.Write(buf[:n])
			if kept.Len() > maxHookOutput {
				kept.Next(kept.Len() - maxHookOutput)
			}
			if err != nil {
				last <- kept.String()
				return
			}
		}
	}()
	return func() string {
		_ = h.read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		return <-last
	}
}
