package engine

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// cgroupPath is where a container's processes are in the cgroup hierarchy. There is no cgroup above
// it that would stay when the last container is gone, unless the user names one.
func cgroupPath(id string, host *HostConfig) string { return path.Join(host.CgroupParent, "tarn-"+id) }

func (c *Container) cgroupPath() string { return cgroupPath(c.ID, &c.Settings.Host) }

// beginSpec writes into a specification what is known of a container before its image is: namespaces,
// cgroup, and what they are limited to. joined is the network namespace of another container, or nil.
func beginSpec(spec *specs.Spec, id, hostname string, host *HostConfig, joined *os.File) error {
	spec.Hostname = hostname
	spec.Linux.CgroupsPath = cgroupPath(id, host)
	path := ""
	if joined != nil {
		path = fmt.Sprintf("/proc/self/fd/%d", joined.Fd())
	}
	setNetwork(spec, host.NetworkMode, path)
	if !hasNamespace(spec, specs.NetworkNamespace) || joined != nil {
		bindSys(spec)
	}
	host.addPid(spec)
	if err := host.Isolation.addTo(spec); err != nil {
		return err
	}
	return host.Resources.addTo(spec)
}

func hasNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

// bindSys shows the machine's /sys where no other may be mounted: in a user namespace without a network of its own.
func bindSys(spec *specs.Spec) {
	if !sys.InUserNamespace() {
		return
	}
	for n, m := range spec.Mounts {
		if m.Type == "sysfs" {
			spec.Mounts[n] = specs.Mount{
				Destination: m.Destination, Type: mountBind, Source: "/sys", Options: []string{"rbind", "ro", "rro", "nosuid", "noexec", "nodev", propagationPrivate},
			}
		}
	}
}

// fillSpec adds to a specification what is known of a container when its image is, all but its user. dir
// is the container's directory on the host.
func fillSpec(spec *specs.Spec, dir string, settings *ContainerSettings) error {
	security, err := parseSecurity(settings.Host.SecurityOpt)
	if err != nil {
		return err
	}
	security.addTo(spec, settings.Host.Privileged)
	spec.Root.Readonly = settings.Host.ReadonlyRootfs
	spec.Mounts = specMounts(dir, settings, spec.Mounts)
	spec.Process.Args = slices.Concat([]string{settings.Path}, settings.Args)
	if settings.Host.Init {
		mount, err := initMount()
		if err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, mount)
		if spec.Process.Args, err = initArgs(spec.Process.Args); err != nil {
			return err
		}
	}
	spec.Process.Cwd = path.Join("/", settings.Config.WorkingDir)
	spec.Process.Env = processEnv(settings)
	spec.Process.Terminal = settings.Terminal
	return nil
}

// setUser looks up the user in the container's root file system, and more groups for it.
func setUser(spec *specs.Spec, root *os.File, name string, groups []string) error {
	user, home, err := container.LookupUser(root, name)
	if err != nil {
		return err
	}
	more, err := container.LookupGroups(root, groups)
	if err != nil {
		return err
	}
	for _, gid := range more {
		if !slices.Contains(user.AdditionalGids, gid) {
			user.AdditionalGids = append(user.AdditionalGids, gid)
		}
	}
	spec.Process.User = user
	if user.UID != 0 {
		// Otherwise the program would be executed with what root may do, and lose that only then.
		spec.Process.Capabilities.Effective, spec.Process.Capabilities.Permitted = nil, nil
	}
	spec.Process.Env = withHome(spec.Process.Env, home)
	return nil
}

// specMounts adds the container's own mounts to those that every container has. One of a path that
// is among these replaces it, with all below it.
func specMounts(dir string, settings *ContainerSettings, defaults []specs.Mount) []specs.Mount {
	own := ownMounts(dir, settings)
	mounts := slices.DeleteFunc(defaults, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return isBelow(m.Destination, o.Destination) })
	})
	mounts = append(mounts, own...)
	// Parents first, and /etc/hosts after a mount at /etc. Of the same depth, in the order above.
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return cmp.Compare(depth(a.Destination), depth(b.Destination)) })
	return mounts
}

func ownMounts(dir string, settings *ContainerSettings) []specs.Mount {
	if id, ok := strings.CutPrefix(settings.Host.NetworkMode, networkContainer); ok {
		dir = filepath.Join(filepath.Dir(dir), id) // who shares the network has the other's files
	}
	var mounts []specs.Mount
	options := []string{"bind", propagationPrivate}
	if settings.Host.ReadonlyRootfs {
		options = append(options, "ro")
	}
	for _, name := range networkFiles() {
		dest := path.Join("/etc", name)
		taken := slices.ContainsFunc(settings.Mounts, func(m MountPoint) bool { return m.Destination == dest })
		if !taken {
			mounts = append(mounts, specs.Mount{
				Destination: dest, Type: mountBind, Source: filepath.Join(dir, name), Options: options,
			})
		}
	}
	for _, m := range settings.Mounts {
		if m.Type == mountTmpfs {
			mounts = append(mounts, specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: m.tmpfsMountOptions()})
			continue
		}
		options := []string{"rbind", cmp.Or(m.Propagation, propagationPrivate)}
		if m.NotRecursive {
			options[0] = "bind"
		}
		if !m.RW {
			options = append(options, "ro")
			if !m.SubmountsWritable {
				options = append(options, "rro")
			}
		}
		mounts = append(mounts, specs.Mount{Destination: m.Destination, Type: mountBind, Source: m.Source, Options: options})
	}
	return mounts
}

// isBelow tells whether a clean absolute path is dir or lies below it.
func isBelow(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}
