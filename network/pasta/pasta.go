// Package pasta connects a network namespace with the host's network by pasta(1): a program that makes a device in the
// namespace and passes on what comes through it by sockets of the host. It needs no rights on the host, which is what
// it is for.
//
// How it is called is podman's way, see podman-run(1), --network pasta. Debian 12's, of March 2023, is enough.
package pasta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

var (
	// ErrMissing says that there is no pasta.
	ErrMissing = errors.New("pasta is missing (on Debian: apt-get install passt): or use --network none or --network host")
	// ErrFailed is wrapped by what pasta itself says.
	ErrFailed = errors.New("pasta")
)

// Find gives pasta's file.
func Find() (string, error) {
	path, err := exec.LookPath("pasta")
	if err != nil {
		return "", ErrMissing
	}
	return filepath.Abs(path)
}

// Child is a process that is to become pasta.
type Child struct {
	begun   *sys.Begun
	program *sys.Program
	self    *os.File
}

// Begin makes a process, while it is not known yet what it is to do. It dies when the calling thread does, and so does
// pasta. The caller discards it, unless it is started.
func Begin() (_ *Child, err error) {
	c := &Child{program: &sys.Program{}}
	if c.self, err = sys.PidFD(os.Getpid()); err != nil {
		return nil, err
	}
	c.program.NotDumpable()
	c.program.DieWithParent(c.self)
	if c.begun, err = sys.Begin(0, nil, c.program, true); err == nil {
		if err = c.begun.Wait(); err == nil {
			return c, nil
		}
	}
	c.Discard()
	return nil, err
}

// Discard ends a process that was not started, and does nothing to another.
func (c *Child) Discard() {
	if c == nil || c.program == nil {
		return
	}
	if c.begun != nil {
		c.begun.End()
	}
	c.close()
}

func (c *Child) close() {
	if c.begun != nil {
		c.begun.Close()
	}
	c.program.Close()
	_ = c.self.Close()
	c.program = nil
}

// Process is a pasta that runs: the number of the process, and when it was started, in clock ticks since boot. That
// names it for good.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// End ends it, if it still runs.
func (p Process) End() error { return sys.EndProcess(p.PID, p.Start) }

// Names in the directory of a pasta.
const (
	namespaceName = "netns"
	readyName     = "ready"
)

// Start has the process become a pasta that connects a network namespace, and returns when it does so. dir is an empty
// directory, which stays as long as pasta does.
func (c *Child) Start(ctx context.Context, namespace *os.File, dir string, args []string) (p Process, err error) {
	defer func() {
		if err != nil {
			c.Discard()
		}
	}()
	path, err := Find()
	if err != nil {
		return p, err
	}
	if err := os.WriteFile(filepath.Join(dir, namespaceName), nil, 0o600); err != nil {
		return p, err
	}
	// It writes its number when all is done, and we hold the other end open, so that it need not wait for a reader.
	fifo := filepath.Join(dir, readyName)
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		return p, &os.PathError{Op: "mkfifo", Path: fifo, Err: err}
	}
	ready, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return p, err
	}
	defer ready.Close()
	output, theirs, err := os.Pipe()
	if err != nil {
		return p, err
	}
	defer output.Close()
	err = c.execute(path, dir, namespace, theirs, args)
	_ = theirs.Close()
	if err != nil {
		return p, err
	}
	if err := c.await(ctx, ready, output); err != nil {
		return p, err
	}
	p.PID = c.begun.Pid
	p.Start, _, err = sys.ProcessStart(p.PID)
	if err == nil {
		_ = c.begun.PidFD.Close()
		c.close()
	}
	return p, err
}

// execute has the process execute pasta. That opens the namespace by a path, but has no right any more to look into
// another process's directory in /proc; and where AppArmor confines it, it may write below /tmp, but not in what we have
// below /run. So it sees dir as /tmp, with the namespace mounted there, and nobody else does.
func (c *Child) execute(path, dir string, namespace, stderr *os.File, args []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p := c.program
	p.Unshare(sys.NewMount)
	p.SlaveMounts()
	p.KeepUntilExec(namespace)
	p.BindMount("mount the network namespace", sys.FDPath(namespace), filepath.Join(dir, namespaceName))
	p.BindMount("mount "+dir, dir, "/tmp")
	p.NewSession()
	p.ResetSignals()
	p.Dup(null, 0)
	p.Dup(null, 1)
	p.Dup(stderr, 2)
	p.DieWithParent(c.self)
	args = append([]string{
		"pasta", "--foreground", "--quiet", "--config-net", "--pid", "/tmp/" + readyName, "--netns", "/tmp/" + namespaceName,
	}, args...)
	p.Exec("exec "+path, path, args, os.Environ())
	return c.begun.Continue()
}

// await waits until pasta says that it is ready, or ends. What it says when it runs nobody reads: it does not mind.
func (c *Child) await(ctx context.Context, ready, output *os.File) error {
	told := make(chan error, 1)
	go func() {
		_, err := ready.Read(make([]byte, 1))
		told <- err
	}()
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(output, 64<<10))
		_, _ = io.Copy(io.Discard, output)
		said <- string(text)
	}()
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case text := <-said:
		if err := c.begun.Failure(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s", ErrFailed, complaint(text))
	}
}

// complaint gives the last of what pasta said, on one line. An older one also tells that there is no syslog.
func complaint(text string) string {
	const most = 3
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Failed to send ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "it ended without a word"
	}
	return strings.Join(lines[max(0, len(lines)-most):], "; ")
}
