package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"unsafe"
)

// Init is a container's first process where its program is not to be that: it starts the program as its
// child, passes signals on to it, waits for whatever else loses its parent, and ends as the program does.
// args are "--" and the program with its arguments. It gives the exit status.
func Init(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no program")
		return 2
	}
	// Before there is a child: none of its signals is missed.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: %v\n", err)
		return startStatus(err)
	}
	// In the foreground of its terminal, if there is one: Ctrl-C is for the program.
	attr := &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(0)}
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: exec %s: %v\n", path, err)
		return startStatus(err)
	}
	go func() {
		for sig := range signals {
			number, ok := sig.(syscall.Signal)
			if ok && number != syscall.SIGCHLD && number != syscall.SIGURG { // the latter is Go's own
				_ = syscall.Kill(pid, number)
			}
		}
	}()
	return reapUntil(pid)
}

// reapUntil waits for all children, until that one has ended.
func reapUntil(pid int) int {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == nil && got == pid:
			return exitStatus(status)
		case err != nil && !errors.Is(err, syscall.EINTR):
			return exitLost
		}
	}
}

func startStatus(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return 127
	}
	return 126
}

// isTerminal asks for the attributes that only terminals have (TCGETS, ioctl_tty(2)).
func isTerminal(fd uintptr) bool {
	var attributes [128]byte
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TCGETS, uintptr(unsafe.Pointer(&attributes)))
	return errno == 0
}
