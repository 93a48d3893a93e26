package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/subid"
)

func TestParseMount(t *testing.T) {
	for text, want := range map[string]MountPoint{
		"type=bind,source=/a,target=/b":                                {Type: "bind", Source: "/a", Destination: "/b", RW: true, Propagation: "rprivate", MountTuning: MountTuning{MustExist: true}},
		"type=bind,src=/a,dst=/b/,ro,bind-recursive=readonly":          {Type: "bind", Source: "/a", Destination: "/b", Propagation: "rprivate", MountTuning: MountTuning{MustExist: true}},
		"type=bind,src=/a,dst=/b,bind-nonrecursive,readonly=0":         {Type: "bind", Source: "/a", Destination: "/b", RW: true, Propagation: "rprivate", MountTuning: MountTuning{MustExist: true, NotRecursive: true}},
		"type=bind,src=/a,dst=/b,bind-propagation=shared,idmap":        {Type: "bind", Source: "/a", Destination: "/b", RW: true, Propagation: "shared", MountTuning: MountTuning{MustExist: true, IDMap: true}},
		"type=bind,src=/a,dst=/b,bind-create-src=1,readonly,TARGET=/c": {Type: "bind", Source: "/a", Destination: "/c", Propagation: "rprivate"},
		"src=vol,dst=/b": {Type: "volume", Name: "vol", Destination: "/b", RW: true},
		"src=vol,dst=/b,volume-nocopy,volume-label=a=1":        {Type: "volume", Name: "vol", Destination: "/b", RW: true, NoCopy: true, MountTuning: MountTuning{VolumeLabels: map[string]string{"a": "1"}}},
		"type=tmpfs,dst=/b":                                    {Type: "tmpfs", Destination: "/b", RW: true},
		"type=tmpfs,dst=/b,tmpfs-size=1k,tmpfs-mode=1777,ro":   {Type: "tmpfs", Destination: "/b", Mode: "size=1024,mode=1777,ro"},
		`type=bind,"source=/a,b",target=/b,consistency=cached`: {Type: "bind", Source: "/a,b", Destination: "/b", RW: true, Propagation: "rprivate", MountTuning: MountTuning{MustExist: true}},
	} {
		got, err := parseMount(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "type=bind", "target=/b,type=bind", "type=bind,source=a,target=/b", "type=bind,source=/a,target=b", "type=bind,source=/a,target=/",
		"type=nfs,target=/b", "target=/b,volume-subpath=x", "target=/b,volume-driver=nfs", "type=tmpfs,source=/a,target=/b", "target=/b,readonly=maybe",
		"type=tmpfs,target=/b,tmpfs-size=x", "type=tmpfs,target=/b,tmpfs-mode=9", "type=volume,target=/b,bind-propagation=shared",
		"type=bind,source=/a,target=/b,bind-propagation=public", "type=bind,source=/a,target=/b,bind-recursive=readonly", "type=bind,source=/a,target=/b,bind-recursive=x",
		"target", `target="/b`, "type=volume,source=../x,target=/b",
	} {
		_, err := parseMount(text)
		require.ErrorIs(t, err, ErrOption, text)
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("type=bind,source=/a,target=/b,readonly")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMount(text)
		if err == nil && (!strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || filepath.Clean(m.Destination) != m.Destination) {
			t.Errorf("%q: a mount at %q", text, m.Destination)
		}
	})
}

func TestResources(t *testing.T) {
	r, err := (&ResourceOptions{
		CPUs: "1.5", CPUShares: 512, Memory: "64m", MemorySwap: "-1", PidsLimit: -1, Ulimits: []string{"nofile=5:unlimited", "core=0", "nofile=6"},
		CpusetCPUs: "0", Devices: []string{"/dev/null:/dev/n:r", "/dev/zero:w", "/dev/full:/f"}, DeviceCgroupRules: []string{"c 1:* rwm"},
	}).parse()
	require.NoError(t, err)
	require.Equal(t, int64(1500000000), r.NanoCpus)
	require.Equal(t, int64(-1), r.MemorySwap)
	require.Equal(t, []Ulimit{{"core", 0, 0}, {"nofile", 6, 6}}, r.Ulimits)
	require.Equal(t, []DeviceMapping{{"/dev/null", "/dev/n", "r"}, {"/dev/zero", "/dev/zero", "w"}, {"/dev/full", "/f", "rwm"}}, r.Devices)
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	require.NoError(t, r.addTo(spec))
	require.Equal(t, int64(150000), *spec.Linux.Resources.CPU.Quota)
	require.Nil(t, spec.Linux.Resources.Pids, "-1 is no limit")
	require.Len(t, spec.Linux.Devices, 3)
	require.Len(t, spec.Linux.Resources.Devices, 4)
	require.Equal(t, uint64(6), spec.Process.Rlimits[1].Hard)

	number := func(n int64) *int64 { return &n }
	for name, bad := range map[string]ResourceOptions{
		"cpus 0": {CPUs: "0"}, "cpus -1": {CPUs: "-1"}, "cpus digits": {CPUs: "0.1234567891"}, "cpus many": {CPUs: "100000"},
		"cpuset": {CpusetCPUs: "1-"}, "cpuset order": {CpusetCPUs: "3-1"}, "cpuset mems": {CpusetMems: ",1"}, "quota": {CPUQuota: 5}, "shares": {CPUShares: 1},
		"rt": {CPURuntime: 5, CPURealtimePeriod: 4}, "memory": {Memory: "-5"}, "memory unit": {Memory: "5x"}, "swappiness": {MemorySwappiness: number(-1)},
		"weight": {BlkioWeight: 1001}, "weight device": {BlkioWeightDevice: []string{"/dev/null:5"}}, "bps": {ReadBps: []string{"/dev/null"}}, "iops": {WriteIOps: []string{"/dev/null:x"}},
		"device": {Devices: []string{"null"}}, "device fields": {Devices: []string{"/dev/null:a:b:c"}}, "rule": {DeviceCgroupRules: []string{"x 1:3 r"}},
		"rule number": {DeviceCgroupRules: []string{"c 99999999999:3 r"}}, "ulimit": {Ulimits: []string{"nofile"}}, "ulimit number": {Ulimits: []string{"nofile=x"}},
		"ulimit soft": {Ulimits: []string{"nofile=unlimited:5"}}, "parent": {CgroupParent: "../x"}, "parent root": {CgroupParent: "/"},
	} {
		_, err := bad.parse()
		require.ErrorIs(t, err, ErrOption, name)
	}
}

func TestCapabilityNames(t *testing.T) {
	got, err := normalCapabilities("cap-add", []string{"net_admin", "CAP_CHOWN", "NET_ADMIN", "all"})
	require.NoError(t, err)
	require.Equal(t, []string{"ALL", "CAP_CHOWN", "CAP_NET_ADMIN"}, got)
	_, err = normalCapabilities("cap-add", []string{"CAP_"})
	require.ErrorIs(t, err, ErrOption)
}

func TestSecurityOptions(t *testing.T) {
	s, err := parseSecurity([]string{"no-new-privileges", "seccomp:unconfined", "apparmor=x", "label=disable", "mask=/a:/b", "unmask=/proc/k*", "writable-cgroups=true"})
	require.NoError(t, err)
	require.True(t, s.noNewPrivileges)
	require.True(t, s.writableCgroups)
	require.Equal(t, "unconfined", s.seccomp)
	require.Equal(t, "x", s.apparmor)
	masked := s.maskedPaths()
	require.Contains(t, masked, "/b")
	require.NotContains(t, masked, "/proc/keys")
	require.Contains(t, masked, "/proc/timer_list")
	s, err = parseSecurity([]string{"unmask=ALL"})
	require.NoError(t, err)
	require.Empty(t, append(s.maskedPaths(), s.readonlyPaths()...))
	for _, bad := range []string{"", "x", "seccomp", "seccomp=", "mask=a", "unmask=proc", "label=type:x", "systempaths=some", "no-new-privileges=perhaps", "apparmor"} {
		_, err := parseSecurity([]string{bad})
		require.ErrorIs(t, err, ErrOption, bad)
	}
}

func TestIDMaps(t *testing.T) {
	m := &idMaps{
		uids: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}, {ContainerID: 10, HostID: 5000, Size: 5}},
		gids: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 10}},
	}
	in, out := m.insideFunc(), m.outsideFunc()
	for here, want := range map[[2]uint32][2]uint32{{0, 0}: {1000, 2000}, {9, 9}: {1009, 2009}, {14, 1}: {5004, 2001}} {
		uid, gid := out(here[0], here[1])
		require.Equal(t, want, [2]uint32{uid, gid})
		uid, gid = in(uid, gid)
		require.Equal(t, [4]uint32{here[0], here[1]}, [4]uint32{uid, gid}, "there and back")
	}
	uid, gid := out(15, 10)
	require.Equal(t, [2]uint32{1000, 2000}, [2]uint32{uid, gid}, "whom the container does not have")
	uid, gid = in(0, 0)
	require.Equal(t, [2]uint32{overflowID, overflowID}, [2]uint32{uid, gid})
	var none *idMaps
	require.Nil(t, none.insideFunc())
	require.Nil(t, none.outsideFunc())
}

// Free numbers are found between those in use, and never twice.
func TestFreeNumbers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	require.NoError(t, os.WriteFile(file, []byte("containers:1000:100\ncontainers:5000:50\n"), 0o600))
	for _, c := range []struct {
		inUse []subid.Range
		size  uint32
		want  uint32
	}{
		{nil, 100, 1000},
		{[]subid.Range{{First: 1000, Size: 10}}, 10, 1010},
		{[]subid.Range{{First: 1020, Size: 10}, {First: 1000, Size: 10}}, 10, 1010},
		{[]subid.Range{{First: 1020, Size: 10}, {First: 1000, Size: 10}}, 11, 1030},
		{[]subid.Range{{First: 1000, Size: 90}}, 20, 5000},
		{[]subid.Range{{First: 900, Size: 150}, {First: 5000, Size: 20}}, 51, 0},
	} {
		got, err := free(file, c.inUse, c.size)
		if c.want == 0 {
			require.ErrorIs(t, err, ErrOption)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}
