package container

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/testenv"
)

// TestFreeze stops a process that does nothing but work, and has it go on.
func TestFreeze(t *testing.T) {
	testenv.RequireRoot(t)
	h, err := openHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	if h.unified.mount == "" {
		if _, err := Freeze(t.Context(), "any"); !errors.Is(err, ErrNoFreezer) {
			t.Fatalf("without cgroup2: %v", err)
		}
		return
	}
	dir := filepath.Join(h.unified.mount, "tarn-test-freeze-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = busy.Process.Kill(), busy.Wait() }()
	pid := strconv.Itoa(busy.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Base(dir)
	for range 2 { // the second time as if nobody had called thaw
		if _, err := Freeze(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		before := worked(t, pid)
		time.Sleep(50 * time.Millisecond)
		if after := worked(t, pid); after != before {
			t.Errorf("it worked on: %d ticks, then %d", before, after)
		}
	}
	thaw, err := Freeze(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	before := worked(t, pid)
	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	for worked(t, pid) == before {
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFreezeOfNothing(t *testing.T) {
	testenv.RequireRoot(t)
	if _, err := Freeze(t.Context(), "../x"); !errors.Is(err, ErrSpec) {
		t.Errorf("a path that leads elsewhere: %v", err)
	}
	if _, err := Freeze(t.Context(), "/tarn-no-such"); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNoFreezer) {
		t.Errorf("a container that has ended: %v", err)
	}
}

// worked gives how long a process was on a processor, in ticks: utime and stime of proc_pid_stat(5).
func worked(t *testing.T, pid string) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	total := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}
