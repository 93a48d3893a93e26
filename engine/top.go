package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/container"
)

// Top lists a container's processes as the host's ps(1) does with these options: titles, then a row for each,
// with IDs of the host. No options are "-ef".
func (e *Engine) Top(ctx context.Context, key string, options []string) ([]string, [][]string, error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	if !c.Running() {
		return nil, nil, fmt.Errorf("top of container %s: %w", c.Name, errNotRunning)
	}
	pids, err := container.Processes(c.cgroupPath())
	if err != nil {
		return nil, nil, err
	}
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := ps(ctx, append(slices.Clip(options), pidList(pids)))
	if err != nil { // some options and a list exclude each other
		out, err = ps(ctx, options)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, nil, fmt.Errorf("ps: %s", strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("top of container %s: %w", c.Name, err)
	}
	return selectProcesses(string(out), pids)
}

func ps(ctx context.Context, options []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ps", options...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd.Output()
}

// pidList is ps's option to look at these processes only, else it leaves out those of other terminals.
func pidList(pids []int) string {
	words := make([]string, 0, len(pids))
	for _, pid := range pids {
		words = append(words, strconv.Itoa(pid))
	}
	return "-q" + strings.Join(words, ",")
}

// selectProcesses takes the rows of ps's output that are of these processes. The last column may have
// spaces.
func selectProcesses(out string, pids []int) (titles []string, rows [][]string, err error) {
	first, rest, _ := strings.Cut(out, "\n")
	titles = strings.Fields(first)
	column := slices.Index(titles, "PID")
	if column < 0 {
		return nil, nil, fmt.Errorf("%w: options of ps: they must list the column PID", ErrOption)
	}
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) < len(titles) {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		last := len(titles) - 1
		rows = append(rows, append(fields[:last:last], strings.Join(fields[last:], " ")))
	}
	return titles, rows, nil
}
