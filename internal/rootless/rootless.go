// Package rootless makes a user without rights root of a user namespace, with the numbers that the machine's
// administrator has given that user for others (subuid(5)).
//
// A program with several threads cannot enter a user namespace, so this program is executed again, inside.
// All of a user's commands share one user namespace and one mount namespace: containers belong to it,
// and mounts stay. They are kept by a process that does nothing else ("pause").
package rootless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/subid"
	"github.com/tarnfs/tarn/internal/sys"
)

// PauseArg is the argument with which this program is executed to be the process that keeps the namespaces:
// see [Pause].
const PauseArg = "rootless-pause"

// Pause waits until it is told to end (SIGTERM). While a program waits for signals, Go's runtime does not take it for
// one in which nothing can happen any more.
func Pause() {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

// ErrSetup is wrapped by errors about what the machine lacks.
var ErrSetup = errors.New("running without root")

// Run executes this program again as root of the user's namespaces, with the same arguments, and gives its
// exit status. run is where what need not outlive the machine's uptime goes. Of env's entries, those that
// this program's environment has already are left out.
func Run(ctx context.Context, run string, env []string) (status int, err error) {
	runtime.LockOSThread() // of which the program's life depends
	users, mounts, err := namespaces(ctx, run)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer users.Close()
	defer mounts.Close()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	parent, err := sys.PidFD(os.Getpid())
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	p := &sys.Program{}
	defer p.Close()
	p.Enter("setns user", users, sys.NewUser)
	p.Enter("setns mnt", mounts, sys.NewMount)
	p.BeRoot(false)
	if dir, err := os.Getwd(); err == nil {
		p.Chdir(dir)
	}
	p.ResetSignals()
	p.DieWithParent(parent)
	p.Exec("exec "+self, self, os.Args, environment(env))
	return supervise(p)
}

// environment is this program's, and what it does not have of more.
func environment(more []string) []string {
	env := os.Environ()
	for _, entry := range more {
		name, _, _ := strings.Cut(entry, "=")
		if os.Getenv(name) == "" {
			env = append(env, entry)
		}
	}
	return env
}

// supervise runs the program, and passes signals on, but those that a terminal gives to both.
func supervise(p *sys.Program) (int, error) {
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTOU, syscall.SIGTTIN)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	child, err := sys.Spawn(0, nil, p)
	if err != nil {
		return 0, err
	}
	defer child.Close()
	go func() {
		for s := range signals {
			if number, ok := s.(syscall.Signal); ok {
				_ = sys.SignalPidFD(child.PidFD, number)
			}
		}
	}()
	status, err := sys.WaitPidFD(child.PidFD)
	if err != nil {
		return 0, err
	}
	if err := child.Failure(); err != nil {
		return 0, err
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// namespaces opens the user's namespaces, and makes them if they are not there.
func namespaces(ctx context.Context, run string) (users, mounts *os.File, err error) {
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(run, "pause.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close()
	if err := sys.Flock(ctx, lock, true); err != nil {
		return nil, nil, err
	}
	path := filepath.Join(run, "pause")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	k, known := parseKeeper(string(text))
	if known {
		users, mounts, err := k.open()
		if !errors.Is(err, os.ErrProcessDone) {
			return users, mounts, err // others would be without the containers that run in these
		}
		k, known = k.successor()
	}
	if !known {
		if k, err = pause(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err := os.WriteFile(path, []byte(k.String()), 0o600); err != nil {
		return nil, nil, err
	}
	return k.open()
}

// pause makes the namespaces, with a process that keeps them, and names that.
func pause(ctx context.Context) (k keeper, err error) {
	self, err := os.Executable()
	if err != nil {
		return k, err
	}
	wait, release, err := os.Pipe()
	if err != nil {
		return k, err
	}
	defer wait.Close()
	defer release.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return k, err
	}
	defer told.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return k, err
	}
	defer null.Close()
	p := &sys.Program{}
	defer p.Close()
	p.Await(wait)
	p.BeRoot(false)
	p.Unshare(sys.NewMount)
	p.SlaveMounts()
	p.NewSession()
	p.ResetSignals()
	for fd := range 3 {
		p.Dup(null, fd)
	}
	p.KeepUntilExec(tell) // only then may we look at it again
	p.Exec("exec "+self, self, []string{os.Args[0], PauseArg}, nil)
	child, err := sys.Spawn(sys.NewUser, nil, p)
	_ = tell.Close()
	if err != nil {
		return k, fmt.Errorf("make a user namespace: %w (see user_namespaces(7), and 'sysctl user.max_user_namespaces kernel.unprivileged_userns_clone')", err)
	}
	defer child.Close()
	err = mapUsers(ctx, child.Pid)
	if err == nil {
		_, err = release.Write([]byte{1})
	}
	if err == nil {
		_, err = io.Copy(io.Discard, told)
		err = errors.Join(err, child.Failure())
	}
	if err == nil {
		k, err = keeperOf(child.Pid)
	}
	if err != nil {
		child.Kill()
	}
	return k, err
}

// mapUsers has the machine's set-user-ID helpers map the user to root, and those that it may give to others to
// users from 1 on.
func mapUsers(ctx context.Context, pid int) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	for _, kind := range []struct{ helper, file, own string }{
		{"newuidmap", subid.Users, me.Uid}, {"newgidmap", subid.Groups, me.Gid},
	} {
		ranges, err := subid.Ranges(kind.file, me.Username, me.Uid)
		if err != nil {
			return err
		}
		if len(ranges) == 0 {
			return fmt.Errorf("%s has no range for %s (as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s)", kind.file, me.Username, me.Username)
		}
		args := []string{strconv.Itoa(pid), "0", kind.own, "1"}
		next := uint64(1)
		for _, r := range ranges {
			args = append(args, strconv.FormatUint(next, 10), strconv.FormatUint(uint64(r.First), 10), strconv.FormatUint(uint64(r.Size), 10))
			next += uint64(r.Size)
		}
		out, err := exec.CommandContext(ctx, kind.helper, args...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s is missing (on Debian: apt-get install uidmap)", kind.helper)
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", kind.helper, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
