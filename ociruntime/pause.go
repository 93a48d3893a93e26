package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

func pause(ctx context.Context, r *runtime, args []string) (int, error) {
	h, err := r.holdIn("pause", args, specs.StateRunning, specs.StateCreated)
	if err != nil {
		return 1, err
	}
	defer h.close()
	if _, err := container.Freeze(ctx, h.Cgroup); err != nil {
		return 1, fmt.Errorf("pause %s: %w", h.ID, err)
	}
	return 0, nil
}

func resume(_ context.Context, r *runtime, args []string) (int, error) {
	h, err := r.holdIn("resume", args, statePaused)
	if err != nil {
		return 1, err
	}
	defer h.close()
	return 0, container.Thaw(h.Cgroup)
}

// holdIn locks the container that is a command's only argument, and requires it to be in one of the
// states.
func (r *runtime) holdIn(command string, args []string, wanted ...specs.ContainerState) (*held, error) {
	rest, err := parse(newFlags(command), args, 1, 1)
	if err != nil {
		return nil, err
	}
	h, err := r.hold(rest[0])
	if err != nil {
		return nil, err
	}
	status, err := r.status(h.record)
	if err == nil && !slices.Contains(wanted, status) {
		err = fmt.Errorf("cannot %s container %s: it is %s", command, h.ID, status)
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func ps(ctx context.Context, r *runtime, args []string) (int, error) {
	var format string
	flags := newFlags("ps")
	flags.StringVar(&format, "format", "table", "`format`: table or json")
	flags.StringVar(&format, "f", "table", "`format`: table or json")
	rest, err := parse(flags, args, 1, -1)
	if err != nil {
		return 1, err
	}
	rec, err := r.read(rest[0])
	if err != nil {
		return 1, err
	}
	pids, err := container.Processes(rec.Cgroup)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 1, err
	}
	switch format {
	case "json":
		if pids == nil {
			pids = []int{}
		}
		return 0, json.NewEncoder(os.Stdout).Encode(pids)
	case "table":
		return 0, printProcesses(ctx, pids, rest[1:])
	default:
		return 1, fmt.Errorf("%w: unknown format %q", errUsage, format)
	}
}

// printProcesses prints those lines of what ps(1) says that are about the processes.
func printProcesses(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	column := -1
	for line := range bytes.Lines(out) {
		fields := bytes.Fields(line)
		if column < 0 {
			column = slices.IndexFunc(fields, func(f []byte) bool { return string(f) == "PID" })
			if column < 0 {
				return errors.New("ps: what it printed has no PID")
			}
		} else if column >= len(fields) || !isOneOf(fields[column], pids) {
			continue
		}
		if _, err := os.Stdout.Write(line); err != nil {
			return err
		}
	}
	return nil
}

func isOneOf(text []byte, pids []int) bool {
	pid, err := strconv.Atoi(string(text))
	return err == nil && slices.Contains(pids, pid)
}
