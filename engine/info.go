package engine

import (
	"bufio"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/format"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/rootfs"
)

// Info is what tarn has here, and what the machine can do, with the names of "docker info" where that has it.
type Info struct {
	Containers, ContainersRunning, ContainersPaused, ContainersStopped int
	Images                                                             int

	Driver        string // that mounts layers
	DriverStatus  [][2]string
	DockerRootDir string // the store's directory
	RunDir        string // and that of what need not outlive a reboot
	LoggingDriver string

	CgroupDriver, CgroupVersion string // the version is 1, 2 or hybrid
	SecurityOptions             []string

	KernelVersion, OperatingSystem, OSType, Architecture, Name string
	NCPU                                                       int
	MemTotal                                                   int64 // bytes

	Features []Feature
	Warnings []string
}

// Feature is something of the kernel's that containers need.
type Feature struct {
	Name, Since string // the first Linux that has it
	Available   bool
}

// Info asks the store and the kernel.
func (e *Engine) Info(ctx context.Context) (*Info, error) {
	info := &Info{
		DockerRootDir: e.Store.Root(), RunDir: e.Store.Run(), LoggingDriver: LogLocal, CgroupDriver: "cgroupfs",
		SecurityOptions: []string{"name=seccomp,profile=builtin"}, OSType: runtime.GOOS, NCPU: runtime.NumCPU(),
	}
	err := errors.Join(e.countContainers(ctx, info), e.countImages(info), e.describeDriver(info), describeMachine(info))
	for _, f := range sys.Features() {
		info.Features = append(info.Features, Feature{f.Name, f.Since, f.Has()})
		if !f.Has() {
			info.Warnings = append(info.Warnings, "no containers start: the kernel lacks "+f.Name+", which Linux "+f.Since+" has")
		}
	}
	if sys.InUserNamespace() {
		info.SecurityOptions = append(info.SecurityOptions, "name=rootless")
	}
	return info, err
}

func (e *Engine) countContainers(ctx context.Context, info *Info) error {
	list, err := e.Containers(ctx, ContainerFilter{All: true})
	info.Containers = len(list)
	for _, c := range list {
		switch c.Status() {
		case StatusPaused:
			info.ContainersPaused++
		case StatusRunning, StatusRestarting:
			info.ContainersRunning++
		default:
			info.ContainersStopped++
		}
	}
	return err
}

func (e *Engine) countImages(info *Info) error {
	records, err := e.Store.Images()
	info.Images = len(records)
	return err
}

// describeDriver tells which driver "auto" comes to.
func (e *Engine) describeDriver(info *Info) error {
	missing := rootfs.ProbeErofs(e.Store.Root())
	if missing != nil && !errors.Is(missing, rootfs.ErrUnsupported) {
		return missing
	}
	mounts := "true"
	if missing != nil {
		mounts = "false: " + missing.Error()
	}
	info.DriverStatus = append(info.DriverStatus, [2]string{"EROFS mounts of files", mounts})
	info.Driver = e.driver
	switch {
	case e.driver == rootfs.Erofs && missing != nil:
		info.Warnings = append(info.Warnings, missing.Error())
	case e.driver != "" && e.driver != rootfs.Auto:
	case missing == nil:
		info.Driver = rootfs.Erofs
	default: // what users without root have in any case
		info.Driver = rootfs.Dirs
	}
	return nil
}

func describeMachine(info *Info) error {
	machine, err := sys.Uname()
	if err != nil {
		return err
	}
	info.KernelVersion, info.Architecture, info.Name = machine.Release, machine.Architecture, machine.Name
	info.OperatingSystem = operatingSystem()
	info.MemTotal = int64(machineMemory())
	info.CgroupVersion, err = container.CgroupVersion()
	return err
}

// operatingSystem is PRETTY_NAME of os-release(5), or "".
func operatingSystem() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
				return format.Printable(strings.Trim(name, `"'`))
			}
		}
	}
	return ""
}
