package container_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

// What the kernel's schedulers make of a container is what its specification says.
func TestSchedulers(t *testing.T) {
	for name, test := range map[string]struct {
		scheduler              specs.Scheduler
		nice, priority, policy string
	}{
		"nice":  {specs.Scheduler{Policy: specs.SchedOther, Nice: 7}, "7", "0", "0"},
		"batch": {specs.Scheduler{Policy: specs.SchedBatch, Nice: -3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}, "-3", "0", "3"},
		"idle":  {specs.Scheduler{Policy: specs.SchedIdle}, "0", "0", "5"},
		"fifo":  {specs.Scheduler{Policy: specs.SchedFIFO, Priority: 12}, "0", "12", "1"},
		"deadline": {
			specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 10e6, Deadline: 20e6, Period: 30e6, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
			"0", "0", "6",
		},
	} {
		b := newBox(t)
		b.spec.Process.Scheduler = &test.scheduler
		b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3}
		s := b.look("/proc/self/stat")
		_, after, _ := strings.Cut(s.Files["/proc/self/stat"], ") ")
		fields := strings.Fields(after) // from field 3 of proc_pid_stat(5) on
		if p := test.scheduler.Policy; p != specs.SchedOther && p != specs.SchedBatch {
			test.nice = niceness(t) // of which it says nothing
		}
		require.Equal(t, []string{test.nice, test.priority, test.policy}, []string{fields[19-3], fields[40-3], fields[41-3]}, name)
		require.Equal(t, 2<<13|3, s.IOPrio)
	}
}

// niceness is this program's own: these tests may run beside something more important.
func niceness(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(text), ") ")
	return strings.Fields(after)[19-3]
}

func TestPersonality(t *testing.T) {
	b := newBox(t).withShell("uname -m 2>/dev/null || busybox uname -m; exit 0")
	b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	require.Equal(t, "00000008", b.look("/proc/self/personality").Files["/proc/self/personality"])
}

// Its memory comes from where the policy says: numa_maps has that for each mapping.
func TestMemoryPolicy(t *testing.T) {
	for want, policy := range map[string]specs.LinuxMemoryPolicy{
		"bind=static:0": {Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}},
		"interleave:0":  {Mode: specs.MpolInterleave, Nodes: "0"},
		"local":         {Mode: specs.MpolLocal},
		"default":       {Mode: specs.MpolDefault},
	} {
		b := newBox(t)
		b.spec.Linux.MemoryPolicy = &policy
		require.Contains(t, b.look("/proc/self/numa_maps").Files["/proc/self/numa_maps"], " "+want+" ")
	}
}

// The score of a container does not depend on its having a /proc.
func TestOOMScoreWithoutProc(t *testing.T) {
	b := newBox(t, "hold")
	score := 77
	b.spec.Process.OOMScoreAdj = &score
	b.spec.Mounts = b.spec.Mounts[1:]
	p := b.mustStart()
	text, err := os.ReadFile("/proc/" + itoa(p.Pid()) + "/oom_score_adj")
	require.NoError(t, err)
	require.Equal(t, "77\n", string(text))
	require.NoError(t, p.Signal(9))
	_, err = p.Wait()
	require.NoError(t, err)
}

func TestAttributesThatAreRefused(t *testing.T) {
	for message, spoil := range map[string]func(b *box){
		"scheduler policy \"SCHED_X\"": func(b *box) { b.spec.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_X"} },
		"sched_setattr":                func(b *box) { b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1000} },
		"scheduler flag": func(b *box) {
			b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"X"}}
		},
		"I/O priority 8": func(b *box) {
			b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		"class \"BE\"":        func(b *box) { b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: "BE"} },
		"personality \"BSD\"": func(b *box) { b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} },
		"personality flag \"X\"": func(b *box) {
			b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"X"}}
		},
		"linux.intelRdt: not supported":    func(b *box) { b.spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} },
		"memoryPolicy: mode \"MPOL_BEST\"": func(b *box) { b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BEST"} },
		"memory nodes \"3-1\"":             func(b *box) { b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "3-1"} },
		"memory nodes \"5000\"":            func(b *box) { b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "5000"} },
		"flag \"MPOL_F_X\"": func(b *box) {
			b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Flags: []specs.MemoryPolicyFlagType{"MPOL_F_X"}}
		},
	} {
		b := newBox(t, "exit", "0")
		spoil(b)
		_, err := b.start()
		require.ErrorContains(t, err, message)
		require.Equal(t, 125, container.ExitCode(err))
	}
}

// Labels of a security module that the host has not would be a protection that is not there.
func TestLabelsNeedTheirModule(t *testing.T) {
	if _, err := os.Stat("/sys/module/apparmor/parameters/enabled"); err != nil {
		b := newBox(t, "exit", "0")
		b.spec.Process.ApparmorProfile = "docker-default"
		_, err := b.start()
		require.ErrorIs(t, err, container.ErrUnsupported)
		require.ErrorContains(t, err, "this host has no AppArmor")
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		b := newBox(t, "exit", "0")
		b.spec.Process.SelinuxLabel = "system_u:system_r:container_t:s0"
		_, err := b.start()
		require.ErrorIs(t, err, container.ErrUnsupported)
		require.ErrorContains(t, err, "this host has no SELinux")
		// What is mounted is protected by nothing else either way: that is only told of, as crun does.
		b.spec.Process.SelinuxLabel, b.spec.Linux.MountLabel = "", "system_u:object_r:container_file_t:s0"
		b.look()
		require.ErrorContains(t, errors.Join(container.Warnings(b.spec)...), "this host has no SELinux")
	}
}
