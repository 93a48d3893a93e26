package monitor

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// Exit is how a container ended.
type Exit struct {
	Status int // of its first process; 128 and the number of a signal
	At     time.Time
	// Asked says that the monitor was told to end, as by the machine's shutdown.
	Asked bool
}

// WriteExit writes the file Config.Exit: status, time in nanoseconds since 1970, and 1 if the end was
// asked for, on one line.
func WriteExit(path string, exit Exit) error {
	asked := 0
	if exit.Asked {
		asked = 1
	}
	text := fmt.Appendf(nil, "%d %d %d\n", exit.Status, exit.At.UnixNano(), asked)
	return os.WriteFile(path, text, 0o600)
}

// ReadExit reads that file.
func ReadExit(path string) (Exit, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Exit{}, err
	}
	var status, asked int
	var at int64
	if _, err := fmt.Sscanf(string(text), "%d %d %d\n", &status, &at, &asked); err != nil {
		return Exit{}, fmt.Errorf("%s: %w", path, err)
	}
	return Exit{status, time.Unix(0, at).UTC(), asked == 1}, nil
}

func exitStatus(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
