package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

func update(ctx context.Context, r *runtime, args []string) (int, error) {
	changes := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}, BlockIO: &specs.LinuxBlockIO{}, Pids: &specs.LinuxPids{}}
	var file string
	flags := newFlags("update")
	flags.StringVar(&file, "resources", "", "`file` with a linux.resources, or - for the standard input; no other flag counts then")
	flags.StringVar(&file, "r", "", "`file` with a linux.resources, or - for the standard input")
	addLimits(flags, changes)
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		flags.Func(name, "not supported", func(string) error { return errors.New("not supported: Intel RDT") })
	}
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	if file != "" {
		if changes, err = readResources(file); err != nil {
			return 1, err
		}
	}
	h, err := r.holdIn("update", rest, specs.StateRunning, specs.StateCreated, statePaused)
	if err != nil {
		return 1, err
	}
	defer h.close()
	return 0, container.SetResources(ctx, h.Cgroup, changes)
}

// addLimits adds a flag for each limit; one that is not given stays nil, which leaves it as it is.
func addLimits(flags *flag.FlagSet, r *specs.LinuxResources) {
	number(flags, "blkio-weight", "weight of block I/O, 10 to 1000", 16, func(n uint64) { r.BlockIO.Weight = new(uint16(n)) })
	number(flags, "cpu-period", "CPU period, in `microseconds`", 64, func(n uint64) { r.CPU.Period = &n })
	signed(flags, "cpu-quota", "CPU time per period, in `microseconds`", &r.CPU.Quota)
	number(flags, "cpu-burst", "CPU time that may be saved up, in `microseconds`", 64, func(n uint64) { r.CPU.Burst = &n })
	number(flags, "cpu-share", "CPU `shares`", 64, func(n uint64) { r.CPU.Shares = &n })
	number(flags, "cpu-rt-period", "realtime period, in `microseconds`", 64, func(n uint64) { r.CPU.RealtimePeriod = &n })
	signed(flags, "cpu-rt-runtime", "realtime CPU time per period, in `microseconds`", &r.CPU.RealtimeRuntime)
	signed(flags, "cpu-idle", "1 to run only when nobody else does", &r.CPU.Idle)
	flags.StringVar(&r.CPU.Cpus, "cpuset-cpus", "", "`list` of CPUs, like 0-2,7")
	flags.StringVar(&r.CPU.Mems, "cpuset-mems", "", "`list` of memory nodes")
	signed(flags, "memory", "memory, in `bytes`; -1 for no limit", &r.Memory.Limit)
	signed(flags, "memory-reservation", "memory that is left to it first, in `bytes`", &r.Memory.Reservation)
	signed(flags, "memory-swap", "memory and swap together, in `bytes`; -1 for no limit", &r.Memory.Swap)
	signed(flags, "pids-limit", "number of processes; -1 for no limit", &r.Pids.Limit)
}

func number(flags *flag.FlagSet, name, about string, bits int, set func(uint64)) {
	flags.Func(name, about, func(text string) error {
		n, err := strconv.ParseUint(text, 10, bits)
		set(n)
		return err
	})
}

func signed(flags *flag.FlagSet, name, about string, to **int64) {
	flags.Func(name, about, func(text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		*to = &n
		return err
	})
}

func readResources(file string) (r *specs.LinuxResources, err error) {
	var text []byte
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(os.Stdin, maxConfig))
	} else {
		text, err = readFile(file)
	}
	if err != nil {
		return nil, err
	}
	r = &specs.LinuxResources{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return r, nil
}
