package sys

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals that programs can use, see signal(7). The two before are the C library's.
const (
	SIGRTMIN = syscall.Signal(34)
	SIGRTMAX = syscall.Signal(64)
)

// ParseSignal reads a signal as kill(1) takes it: "SIGTERM", "term", "15", "RTMIN+3", "RTMAX-1".
func ParseSignal(text string) (syscall.Signal, bool) {
	if n, err := strconv.Atoi(text); err == nil {
		return syscall.Signal(n), n > 0 && n <= int(SIGRTMAX)
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, true
	}
	sig := syscall.Signal(0)
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		sig = realTime(SIGRTMIN, rest, "+")
	} else if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		sig = realTime(SIGRTMAX, rest, "-")
	}
	return sig, sig >= SIGRTMIN && sig <= SIGRTMAX
}

// realTime counts from a real-time signal up or down; 0 is for what is no number.
func realTime(from syscall.Signal, distance, sign string) syscall.Signal {
	if distance == "" {
		return from
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(distance, sign), 10, 8)
	if err != nil || !strings.HasPrefix(distance, sign) {
		return 0
	}
	if sign == "-" {
		return from - syscall.Signal(n)
	}
	return from + syscall.Signal(n)
}
