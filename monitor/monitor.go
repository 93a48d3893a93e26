package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/monitor/logfile"
)

// Main is the program: its arguments are "serve" and those of a [Config], or "init" and the program that
// is to be a container's, see [Init]. It gives the exit status.
func Main(ctx context.Context, args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case "serve":
			return serve(ctx, args[1:])
		case "init":
			return Init(args[1:])
		}
	}
	fmt.Fprintln(os.Stderr, "tarn-monitor: it is started by tarn")
	return 2
}

func serve(ctx context.Context, args []string) int {
	cfg, err := ParseArgs(args)
	if err == nil {
		err = Serve(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tarn-monitor: "+err.Error())
		return 1
	}
	return 0
}

// lastWords bounds how long a monitor waits, when the container has ended, for those who take its
// output.
const lastWords = 5 * time.Second

// Serve does what a monitor does, until the container ends. Then it executes cfg.Then, and only returns
// if that fails, or there is none.
func Serve(ctx context.Context, cfg *Config) error {
	m := &monitor{cfg: cfg}
	asked := m.heed()
	if err := m.openLog(); err != nil {
		return err
	}
	if err := m.holdNetworks(ctx); err != nil {
		return err
	}
	m.openInput()
	m.acceptEarly(ctx)
	if err := m.copyOutput(); err != nil {
		return err
	}
	go m.accept(ctx)
	if len(cfg.Health) > 0 {
		go m.watchHealth()
	}
	exit := Exit{Status: wait(cfg.PID), At: time.Now()}
	exit.Asked = asked.Load()
	m.finish(exit.Status)
	err := WriteExit(cfg.Exit, exit)
	if len(cfg.Then) > 0 {
		err = errors.Join(err, syscall.Exec(cfg.Then[0], cfg.Then[1:], os.Environ()))
	}
	return err
}

// monitor is the state of one monitor.
type monitor struct {
	cfg    *Config
	copies sync.WaitGroup // of the container's output
	ended  *os.File       // closed when the container has ended, if it has pipes

	mu      sync.Mutex     // all below
	log     logfile.Writer // nil for none
	clients []*client
	input   *os.File // what the container reads, or its terminal; nil when it has ended
}

// wait waits for the end of the container's first process, and gives its status.
func wait(pid int) int {
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, 0, nil)
		switch {
		case err == nil:
			return exitStatus(status)
		case !errors.Is(err, syscall.EINTR):
			return exitLost
		}
	}
}

// exitLost is the status of a container that is no child of the monitor, which does not happen.
const exitLost = 255

// heed has a SIGTERM, as it comes when the machine is shut down, end the container in its own way, and
// nothing else end the monitor.
func (m *monitor) heed() *atomic.Bool {
	asked := &atomic.Bool{}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for sig := range signals {
			if sig == syscall.SIGTERM {
				asked.Store(true)
				_ = syscall.Kill(m.cfg.PID, syscall.Signal(m.cfg.StopSignal)) // not reaped yet: it is that process
			}
		}
	}()
	return asked
}

// openFile makes a file of a descriptor that was passed on; nil of none. Nobody else inherits it.
func openFile(fd int, name string) *os.File {
	if fd == 0 {
		return nil
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // so that the runtime waits for all of them at once
	return os.NewFile(uintptr(fd), name)
}

// finish takes what is left of the output, and says goodbye. Who still can write, a process outside of the
// container's pid namespace, is not waited for.
func (m *monitor) finish(status int) {
	last := time.Now().Add(lastWords)
	m.hurry(last)
	m.endOutput()
	m.copies.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.clients {
		_ = WriteFrame(c.conn, Exited, StatusFrame(status))
		_ = c.conn.Close()
	}
	m.clients = nil
	if m.log != nil {
		m.log.Close(time.Now())
	}
}
