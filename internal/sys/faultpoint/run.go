// Package faultpoint is for tests. It runs a program and stops it before each system call that changes a
// file system or the tree of mounts: there the program can be killed, or have the call fail.
package faultpoint

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Call is a system call that a program is about to make.
type Call struct {
	N     int    // how many there were before it, and 1
	Name  string // as "rename"
	Kind  Kind
	Paths []string // what it is about, as far as that can be told
}

func (c Call) String() string {
	return fmt.Sprintf("%d: %s %s", c.N, c.Name, strings.Join(c.Paths, " "))
}

// Verdict says what becomes of a call.
type Verdict struct {
	Kill  bool          // the program, before the call
	Errno syscall.Errno // the call fails with this and does nothing; 0: it is made
}

// Run runs the program to its end, and waits for all processes that it has started. decide is asked about each
// call of any of them that changes a mount, or what lies below one of dirs, one after the other. The error is
// that of cmd.Wait, or of watching.
//
// It needs root, and Linux 5.19.
func Run(cmd *exec.Cmd, dirs []string, decide func(Call) Verdict) error {
	w := &watch{started: make(chan struct{}), dirs: dirs, decide: decide, calls: make(map[int32]call)}
	for _, c := range calls() {
		w.calls[int32(c.nr)] = c
	}
	served, err := w.start(cmd)
	if err != nil {
		return fmt.Errorf("watch %s: %w", cmd.Path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := <-served; err != nil {
		return errors.Join(fmt.Errorf("watch %s: %w", cmd.Path, err), cmd.Process.Kill())
	}
	return <-ended
}

// onThreadOfItsOwn runs f on a thread that ends with it. The process's first thread would not.
func onThreadOfItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		if syscall.Gettid() != syscall.Getpid() {
			f() // and the thread stays locked
			return
		}
		defer runtime.UnlockOSThread()
		onThreadOfItsOwn(f)
	}()
	<-done
}

// watch is a program that runs.
type watch struct {
	started  chan struct{} // closed when pid is known
	pid      int
	listener *listener
	dirs     []string
	decide   func(Call) Verdict
	calls    map[int32]call
	count    int
	killed   bool
}

// start starts the program. served gets the result when no process of it is left.
func (w *watch) start(cmd *exec.Cmd) (served chan error, err error) {
	onThreadOfItsOwn(func() {
		// The filter is this thread's and its children's.
		if w.listener, err = listen(); err != nil {
			return
		}
		served = make(chan error, 1)
		go func() {
			served <- w.serve()
			w.listener.close()
		}()
		if err = cmd.Start(); err == nil {
			w.pid = cmd.Process.Pid
		}
		close(w.started)
	})
	return served, err
}

// serve answers calls until no process is left that could make one. It does not wait for anything but the next:
// the thread that starts the program, and with it all of this process, may be waiting for an answer itself.
func (w *watch) serve() error {
	asked := make(chan *notice, maxThreads)
	judged := make(chan error, 1)
	go func() { judged <- w.judgeAll(asked) }()
	var err error
	for err == nil {
		var n *notice
		var ok bool
		if n, ok, err = w.listener.next(); err != nil || !ok {
			break
		}
		if n.process() == syscall.Getpid() {
			err = w.listener.answer(n, 0)
		} else {
			asked <- n
		}
	}
	close(asked)
	return errors.Join(err, <-judged)
}

// maxThreads is more than the program has: each of them waits at one call at most.
const maxThreads = 4096

func (w *watch) judgeAll(asked <-chan *notice) error {
	<-w.started
	var errs []error
	for n := range asked {
		verdict := w.judge(n)
		if verdict.Kill {
			w.killed = true
			errs = append(errs, syscall.Kill(w.pid, syscall.SIGKILL))
		}
		if w.killed && n.process() == w.pid {
			continue // an answer would let the call happen before it dies
		}
		errs = append(errs, w.listener.answer(n, verdict.Errno))
	}
	return errors.Join(errs...)
}

func (w *watch) judge(n *notice) Verdict {
	c := w.calls[n.nr]
	paths := n.paths(c)
	if w.killed || c.kind != Mount && !w.concerns(paths) {
		return Verdict{}
	}
	w.count++
	return w.decide(Call{N: w.count, Name: c.name, Kind: c.kind, Paths: paths})
}

// concerns tells whether one of the paths lies below one of the directories.
func (w *watch) concerns(paths []string) bool {
	for _, path := range paths {
		path = filepath.Clean(path)
		for _, dir := range w.dirs {
			if path == dir || strings.HasPrefix(path, dir+"/") {
				return true
			}
		}
	}
	return false
}
