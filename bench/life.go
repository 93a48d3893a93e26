package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	manyContainers = 100
	startedAtATime = 8
	logBytes       = 1_000_000_000
)

// lifeFigure measures containers that run in the background.
func lifeFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	s, err := lab.debian(ctx)
	if err != nil {
		return nil, err
	}
	if err := lab.podmanDebian(ctx); err != nil {
		return nil, err
	}
	all, err := rows(ctx, lab, Comparison{
		Work: fmt.Sprintf("start %d containers, %d at a time, in the background, with no network", manyContainers, startedAtATime),
		Unit: Seconds, Bar: 1.0 / 3, Runs: 2,
		A: Side{Name: "tarn run -d", Measure: func(ctx context.Context) (float64, error) { return lab.startMany(ctx, s) }},
		B: Side{Name: "podman run -d over crun", Measure: lab.podmanStartMany},
	}, Limit{
		Work: "memory of a detached idle container beyond its process", Unit: Bytes, Bar: 4 << 20, Runs: 3,
		Side: Side{Name: "PSS of its monitor, the only one", Measure: func(ctx context.Context) (float64, error) { return lab.idleMonitor(ctx, s) }},
	}, Comparison{
		Work: "a container writes 1 GB in lines of 100 bytes", Unit: Seconds, Bar: 1.1, Runs: 5,
		A: Side{Name: "to the log, of 3 files of 100 MB", Prepare: settle, Measure: func(ctx context.Context) (float64, error) { return lab.writeLog(ctx, s) }},
		B: Side{Name: "to a file", Prepare: settle, Measure: func(ctx context.Context) (float64, error) { return lab.writeFile(ctx, s) }},
	})
	return all, errors.Join(err, lab.emptyPodman(ctx))
}

// podmanDebian gives podman's store the Debian root as an image.
func (l *Lab) podmanDebian(ctx context.Context) error {
	args := l.podman("import", "--quiet", l.tar, "localhost/debian")
	return command(ctx, args[0], args[1:]...)
}

// many runs start for each of the containers, so many at a time.
func many(start func(n int) error) error {
	errs := make([]error, manyContainers)
	var all sync.WaitGroup
	room := make(chan struct{}, startedAtATime)
	for n := range manyContainers {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			errs[n] = start(n)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// startMany starts containers, verifies that all run, and that nothing is left when they are removed.
func (l *Lab) startMany(ctx context.Context, s store) (float64, error) {
	took, err := timed(func() error {
		return many(func(n int) error {
			return l.tarnRun(ctx, s, "run", "-d", "--network", "none", "--name", fmt.Sprint("many", n), "debian", "sleep", "1000")
		})
	})
	if err != nil {
		return 0, err
	}
	running, err := l.tarnOutput(ctx, s, "ps", "-q", "--no-trunc")
	if err != nil {
		return 0, err
	}
	ids := strings.Fields(running)
	if len(ids) != manyContainers {
		return 0, fmt.Errorf("%d containers run, not %d", len(ids), manyContainers)
	}
	if err := l.tarnRun(ctx, s, append([]string{"rm", "-f"}, ids...)...); err != nil {
		return 0, err
	}
	return took, nothingLeft(ids)
}

// nothingLeft looks for what containers would leave behind.
func nothingLeft(ids []string) error {
	for _, pattern := range []string{"/sys/fs/cgroup/tarn-", "/sys/fs/cgroup/*/tarn-"} {
		for _, id := range ids {
			left, err := filepath.Glob(pattern + id)
			if err != nil || len(left) > 0 {
				return errors.Join(err, fmt.Errorf("left: %v", left))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if bytes.Contains(mounts, []byte(id)) {
			return fmt.Errorf("a mount of container %s is left", id)
		}
	}
	return nil
}

func (l *Lab) podmanStartMany(ctx context.Context) (float64, error) {
	took, err := timed(func() error {
		return many(func(n int) error {
			args := l.podman("--runtime", "crun", "run", "-d", "--network", "none", "--name", fmt.Sprint("many", n),
				"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "localhost/debian", "sleep", "1000")
			return command(ctx, args[0], args[1:]...)
		})
	})
	remove := l.podman("rm", "--all", "--force", "--time", "0")
	return took, errors.Join(err, command(ctx, remove[0], remove[1:]...))
}

// writer is a program that prints logBytes in lines, and how long it took on standard error.
const writer = `s=$(date +%s%N); mawk 'BEGIN { for (l = "x"; length(l) < 99; l = l "y"); for (i = 0; i < 10000000; i++) print l }'; ` +
	`e=$(date +%s%N); echo $(( (e - s) / 1000 )) >&2`

// writeLog gives how long the writer took, and verifies that the log has the end of what it wrote.
func (l *Lab) writeLog(ctx context.Context, s store) (float64, error) {
	id, err := l.tarnOutput(ctx, s, "run", "-d", "--network", "none", "--log-opt", "max-size=100m", "--log-opt", "max-file=3",
		"-v", "bench-log:/out", "debian", "sh", "-c", "{ "+writer+"; } 2>/out/took")
	if err != nil {
		return 0, err
	}
	id = strings.TrimSpace(id)
	if err := l.tarnRun(ctx, s, "wait", id); err != nil {
		return 0, err
	}
	tail, err := l.tarnOutput(ctx, s, "logs", "--tail", "1000", id)
	if err != nil {
		return 0, err
	}
	if len(tail) < 1000*99 {
		return 0, fmt.Errorf("the log's end has %d bytes", len(tail))
	}
	took, err := l.tarnOutput(ctx, s, "run", "--rm", "--network", "none", "-v", "bench-log:/out", "debian", "cat", "/out/took")
	if err != nil {
		return 0, err
	}
	return microseconds(took, l.tarnRun(ctx, s, "rm", "-v", id))
}

func (l *Lab) writeFile(ctx context.Context, s store) (float64, error) {
	took, err := l.tarnOutput(ctx, s, "run", "--rm", "--network", "none", "debian", "sh", "-c", "{ "+writer+"; } 2>&1 >/file; rm /file")
	return microseconds(took, err)
}

func microseconds(text string, err error) (float64, error) {
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return n / 1e6, err
}

// idleMonitor gives the memory of a container's monitor, in bytes.
func (l *Lab) idleMonitor(ctx context.Context, s store) (float64, error) {
	if err := l.tarnRun(ctx, s, "run", "-d", "--network", "none", "--name", "idle", "debian", "sleep", "1000"); err != nil {
		return 0, err
	}
	time.Sleep(2 * time.Second)
	pid, err := l.tarnOutput(ctx, s, "inspect", "-f", "{{.State.Pid}}", "idle")
	if err != nil {
		return 0, err
	}
	parent, err := exec.CommandContext(ctx, "ps", "-o", "ppid=", "-p", strings.TrimSpace(pid)).Output()
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(parent)), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024, errors.Join(err, l.tarnRun(ctx, s, "rm", "-f", "idle"))
		}
	}
	return 0, errors.New("no Pss in smaps_rollup")
}
