package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// StartOptions says how to start a container.
type StartOptions struct {
	Attach bool // to its output, until it ends
	Streams
}

// Streams is what a container is attached to.
type Streams struct {
	Input      bool   // the container gets Stdin
	SigProxy   bool   // and the signals that this process gets, if it has no terminal
	DetachKeys string // "" for the usual ones, see [ParseDetachKeys]

	Stdin, Stdout, Stderr *os.File
}

// Start starts a container in the background. If it is to be attached to, Start gives the container's exit
// status when that has ended, or [ErrDetached]. One that runs already is no error.
func (e *Engine) Start(ctx context.Context, key string, opts StartOptions) (status int, err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return 0, err
	}
	if c.orphaned() {
		if err := e.collect(ctx, c); err != nil {
			return 0, err
		}
	}
	if c.Damaged != nil {
		return 0, c.Damaged
	}
	if c.Running() {
		if opts.Attach {
			return e.Attach(ctx, c.ID, opts.Streams)
		}
		return 0, nil
	}
	return e.startNew(ctx, c, opts)
}

// startable refuses what cannot be started. The container's state was read under its lock.
func (c *Container) startable() error {
	if err := c.reload(); err != nil {
		return err
	}
	if c.Running() || c.State.Status == StatusRestarting {
		return fmt.Errorf("start container %s: %w", c.Name, ErrRunning)
	}
	return nil
}

// startNew executes a monitor that starts the container.
func (e *Engine) startNew(ctx context.Context, c *Container, opts StartOptions) (status int, err error) {
	background := BackgroundOptions{ID: c.ID, Attached: opts.Attach, StdinOnce: opts.Attach && opts.Input}
	if !opts.Attach {
		return 0, e.executeMonitor(background, nil)
	}
	session, err := newSession(opts.Streams, c.Settings.Terminal)
	if err != nil {
		return 0, err
	}
	defer session.close()
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	background.Cols, background.Rows = session.size()
	err = e.executeMonitor(background, theirs)
	_ = theirs.Close()
	if err != nil {
		return 0, err
	}
	status, err = session.serve(ctx, c, ours)
	if err == nil {
		c.awaitRecord(ctx) // with --rm it is gone when we are
	}
	return status, err
}

// executeMonitor executes a monitor, and returns when the container runs or could not be started.
func (e *Engine) executeMonitor(opts BackgroundOptions, client *os.File) error {
	return e.execute(MonitorStart, opts.args(), client)
}

// execute executes this program to become a monitor, and returns when it reports.
func (e *Engine) execute(verb string, args []string, client *os.File) error {
	command, err := e.monitorCommand(verb, args...)
	if err != nil {
		return err
	}
	report, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, theirs.Close())
	}
	defer null.Close()
	files := []*os.File{null, null, null, theirs}
	if client != nil {
		files = append(files, client)
	}
	sys.HideFiles() // whoever waits for the end of a pipe that we were started with need not wait for it
	process, err := startApart(command, files)
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	go func() { _, _ = process.Wait() }() // if this program stays
	return readReport(report)
}

// monitorsCgroup is where monitors are, if not where their starters are.
const monitorsCgroup = "tarn-monitors"

// startApart starts a program that outlives all that this one is part of. A session of its own: what is typed at this
// terminal is not for it, nor the terminal's end. A cgroup of its own: the end of a service of systemd is not its.
func startApart(command []string, files []*os.File) (*os.Process, error) {
	attr := &os.ProcAttr{Dir: "/", Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if cgroup := container.OpenCgroupApart(monitorsCgroup); cgroup != nil {
		defer cgroup.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.Fd())
		process, err := os.StartProcess(command[0], command[1:], attr)
		if err == nil {
			return process, nil
		}
		attr.Sys.UseCgroupFD = false // it may be closed to processes
	}
	return os.StartProcess(command[0], command[1:], attr)
}

// maxReport bounds what a monitor reports.
const maxReport = 64 << 10

// writeReport tells how a start went: a line with the exit status that the error stands for, 0 for none, and
// then its text.
func writeReport(w io.WriteCloser, err error) error {
	text, status := "", 0
	if err != nil {
		text, status = err.Error(), container.ExitCode(err)
	}
	_, writeErr := fmt.Fprintf(w, "%d\n%s", status, text)
	return errors.Join(writeErr, w.Close())
}

// errMonitorDied says that there was no report.
var errMonitorDied = errors.New("the monitor was killed")

// startError is an error that a monitor has reported.
type startError struct {
	text   string
	status int
}

func (e *startError) Error() string { return e.text }

// Is keeps what ExitStatus asks for.
func (e *startError) Is(target error) bool {
	return e.status == 127 && target == container.ErrNotFound || e.status == 126 && target == container.ErrNotExecutable
}

func readReport(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxReport))
	if err != nil {
		return err
	}
	first, rest, found := strings.Cut(string(text), "\n")
	status, err := strconv.Atoi(first)
	if !found || err != nil {
		return errMonitorDied
	}
	if status == 0 {
		return nil
	}
	return &startError{rest, status}
}
