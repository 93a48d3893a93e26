package engine

import (
	"cmp"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/image"
)

// cgroupPath is where a container's processes are in the cgroup hierarchy.
func cgroupPath(id string) string { return "tarn/" + id }

// newSpec writes down a container for the runtime. root is its root file system, in which its user
// is looked up.
func newSpec(c *Container, root *os.File) (*specs.Spec, error) {
	settings := &c.Settings
	user, home, err := container.LookupUser(root, settings.Config.User)
	if err != nil {
		return nil, err
	}
	security, err := parseSecurity(settings.Host.SecurityOpt)
	if err != nil {
		return nil, err
	}
	spec := container.DefaultSpec()
	spec.Hostname = settings.Config.Hostname
	spec.Root.Readonly = settings.Host.ReadonlyRootfs
	spec.Linux.CgroupsPath = cgroupPath(c.ID)
	spec.Mounts = specMounts(c, spec.Mounts)
	spec.Process.Args = slices.Concat([]string{settings.Path}, settings.Args)
	spec.Process.Cwd = settings.Config.WorkingDir
	spec.Process.User = user
	spec.Process.Env = withHome(settings.Config.Env, home)
	spec.Process.Terminal = settings.Host.Terminal
	spec.Process.NoNewPrivileges = security.noNewPrivileges
	setNetwork(spec, settings.Host.NetworkMode)
	return spec, nil
}

func withHome(env []string, home string) []string {
	if _, found := image.LookupEnv(env, "HOME"); found {
		return env
	}
	return append(slices.Clip(env), "HOME="+cmp.Or(home, "/"))
}

// specMounts adds the container's own mounts to those that every container has. One of a path that
// is among these replaces it, with all below it.
func specMounts(c *Container, defaults []specs.Mount) []specs.Mount {
	own := ownMounts(c)
	mounts := slices.DeleteFunc(defaults, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return isBelow(m.Destination, o.Destination) })
	})
	mounts = append(mounts, own...)
	// Parents first, and /etc/hosts after a mount at /etc. Of the same depth, in the order above.
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return cmp.Compare(depth(a.Destination), depth(b.Destination)) })
	return mounts
}

func ownMounts(c *Container) []specs.Mount {
	var mounts []specs.Mount
	for _, name := range networkFiles() {
		dest := path.Join("/etc", name)
		taken := slices.ContainsFunc(c.Settings.Mounts, func(m MountPoint) bool { return m.Destination == dest })
		if !taken {
			mounts = append(mounts, specs.Mount{
				Destination: dest, Type: mountBind, Source: filepath.Join(c.Dir(), name), Options: []string{"bind", propagationPrivate},
			})
		}
	}
	for _, m := range c.Settings.Mounts {
		if m.Type == mountTmpfs {
			mounts = append(mounts, specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: m.tmpfsMountOptions()})
			continue
		}
		options := []string{"rbind", cmp.Or(m.Propagation, propagationPrivate)}
		if !m.RW {
			options = append(options, "ro", "rro")
		}
		mounts = append(mounts, specs.Mount{Destination: m.Destination, Type: mountBind, Source: m.Source, Options: options})
	}
	return mounts
}

// isBelow tells whether a clean absolute path is dir or lies below it.
func isBelow(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}
