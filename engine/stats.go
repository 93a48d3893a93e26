package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/container"
)

// ContainerUsage is what a container uses.
type ContainerUsage struct {
	ID, Name string
	At       time.Time

	CPU         time.Duration // processor time since its start
	Memory      uint64        // bytes, without what the kernel can take back at once
	MemoryLimit uint64        // bytes; the machine's, if the container has none
	Processes   uint64
	BlockRead   uint64 // bytes
	BlockWrite  uint64
	NetRead     uint64 // bytes that its interfaces, but the loopback one, have received
	NetWrite    uint64
}

// ContainerUsage gives what a container uses now. One that does not run uses nothing.
func (e *Engine) ContainerUsage(ctx context.Context, key string) (*ContainerUsage, error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return nil, err
	}
	u := &ContainerUsage{ID: c.ID, Name: c.Name, At: time.Now()}
	if !c.Running() {
		return u, nil
	}
	stats, err := container.Stats(c.cgroupPath())
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil // it has just ended
	}
	if err != nil {
		return nil, err
	}
	u.CPU = time.Duration(stats.CPU.Usage.Total)
	u.Memory, u.MemoryLimit = stats.Memory.Usage.Usage, stats.Memory.Usage.Limit
	for _, name := range []string{"inactive_file", "total_inactive_file"} { // as Docker does, for version 2 and 1
		if cache := stats.Memory.Raw[name]; cache < u.Memory {
			u.Memory -= cache
		}
	}
	if total := machineMemory(); u.MemoryLimit == 0 || u.MemoryLimit > total {
		u.MemoryLimit = total
	}
	u.Processes = stats.Pids.Current
	if u.Processes == 0 || u.Memory == 0 { // without a limit of it, it may not be counted
		pids, err := container.Processes(c.cgroupPath())
		if err != nil {
			return nil, err
		}
		u.Processes = uint64(len(pids))
		if u.Memory == 0 {
			u.Memory = processMemory(pids)
		}
	}
	for _, entry := range stats.Blkio.ServiceBytes {
		switch strings.ToLower(entry.Op) {
		case "read":
			u.BlockRead += entry.Value
		case "write":
			u.BlockWrite += entry.Value
		}
	}
	u.NetRead, u.NetWrite = netUsage(c.State.Process.PID)
	return u, nil
}

// machineMemory gives MemTotal of /proc/meminfo in bytes (proc_meminfo(5)).
func machineMemory() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// processMemory gives what processes have in memory, in bytes, what they share with others in parts: Pss of
// /proc/PID/smaps_rollup (proc_pid_smaps(5)).
func processMemory(pids []int) (total uint64) {
	for _, pid := range pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
				total += kib << 10
			}
		}
	}
	return total
}

// netUsage reads /proc/PID/net/dev: bytes received are its first number of an interface, those sent its ninth.
func netUsage(pid int) (received, sent uint64) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		name, numbers, found := strings.Cut(line, ":")
		fields := strings.Fields(numbers)
		if !found || len(fields) < 9 || strings.TrimSpace(name) == "lo" {
			continue
		}
		in, _ := strconv.ParseUint(fields[0], 10, 64)
		out, _ := strconv.ParseUint(fields[8], 10, 64)
		received, sent = received+in, sent+out
	}
	return received, sent
}
