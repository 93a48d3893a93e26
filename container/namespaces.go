package container

import (
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// namespaces says who enters which namespace, and how.
type namespaces struct {
	// thread are new ones for the thread that builds the container; the process inherits them.
	thread int
	// fork are new ones for the process alone. It makes its cgroup namespace itself, in its cgroup.
	fork   uint64
	cgroup bool
	// join are existing ones.
	join []namespace
	// user is one that only the process enters: a program with several threads cannot. All new ones
	// belong to it.
	user *userNamespace
	// time is entered by the process alone as well.
	time *os.File
	// held are new ones that another process than this one has to make.
	held int
	// hostMounts is for a container that stays in the host's mount namespace. It is built in one of its
	// own, and takes a copy of its mounts along that is attached nowhere: the host sees none of them, they
	// are gone with the process, and no ".." leads out of them.
	hostMounts bool
}

type namespace struct {
	kind int
	file *os.File
}

func (n *namespaces) close() {
	for _, j := range n.join {
		_ = j.file.Close()
	}
	if n.user != nil && n.user.file != nil {
		_ = n.user.file.Close()
	}
	if n.time != nil {
		_ = n.time.Close()
	}
}

func namespaceKinds() map[specs.LinuxNamespaceType]int {
	return map[specs.LinuxNamespaceType]int{
		specs.MountNamespace: sys.NewMount, specs.PIDNamespace: sys.NewPID, specs.UTSNamespace: sys.NewUTS,
		specs.IPCNamespace: sys.NewIPC, specs.NetworkNamespace: sys.NewNet, specs.CgroupNamespace: sys.NewCgroup,
		specs.UserNamespace: sys.NewUser, specs.TimeNamespace: sys.NewTime,
	}
}

// openNamespaces sorts the namespaces of the specification and opens those to be joined.
func openNamespaces(spec *specs.Spec) (n *namespaces, err error) {
	kinds := namespaceKinds()
	n = &namespaces{}
	seen := 0
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, ns := range spec.Linux.Namespaces {
		kind, ok := kinds[ns.Type]
		switch {
		case !ok:
			return n, fmt.Errorf("%s namespace: %w", ns.Type, ErrUnsupported)
		case seen&kind != 0:
			return n, fmt.Errorf("%w: two %s namespaces", ErrSpec, ns.Type)
		}
		seen |= kind
		if ns.Path == "" {
			n.add(kind)
			continue
		}
		f, err := sys.OpenNamespace(ns.Path, kind)
		if err != nil {
			return n, fmt.Errorf("join %s namespace: %w", ns.Type, err)
		}
		n.addExisting(kind, f)
	}
	if n.hostMounts = seen&sys.NewMount == 0; n.hostMounts {
		if n.user != nil {
			return n, fmt.Errorf("%w: in a user namespace nothing can be mounted without a mount namespace", ErrSpec)
		}
		n.thread |= sys.NewMount // to build it in
	}
	if err := n.checkMappings(spec.Linux); err != nil {
		return n, err
	}
	if n.user != nil {
		n.held, n.thread = n.held|n.thread, 0
	}
	return n, nil
}

func (n *namespaces) add(kind int) {
	switch kind {
	case sys.NewPID:
		n.fork |= sys.NewPID
	case sys.NewCgroup:
		n.cgroup = true
	case sys.NewUser:
		n.user = &userNamespace{}
	case sys.NewTime:
		n.held |= sys.NewTime
	default:
		n.thread |= kind
	}
}

func (n *namespaces) addExisting(kind int, f *os.File) {
	switch kind {
	case sys.NewUser:
		n.user = &userNamespace{file: f}
	case sys.NewTime:
		n.time = f
	default:
		n.join = append(n.join, namespace{kind, f})
	}
}

// enter moves the calling thread into the namespaces.
func (n *namespaces) enter(spec *specs.Spec) error {
	if err := n.hold(spec.Linux); err != nil {
		return err
	}
	// Without a new mount namespace the thread needs a root directory of its own to enter one.
	if err := sys.Unshare(n.thread | sys.OwnRoot); err != nil {
		return err
	}
	for _, j := range n.join {
		if err := sys.Setns(j.file, j.kind); err != nil {
			return err
		}
	}
	if (n.thread|n.held)&sys.NewNet != 0 {
		if err := sys.LoopbackUp(); err != nil {
			return err
		}
	}
	if err := moveNetDevices(spec.Linux.NetDevices); err != nil {
		return err
	}
	if spec.Hostname != "" {
		if err := sys.SetHostname(spec.Hostname); err != nil {
			return err
		}
	}
	if spec.Domainname != "" {
		if err := sys.SetDomainname(spec.Domainname); err != nil {
			return err
		}
	}
	if n.user != nil {
		return n.user.beRoot()
	}
	return nil
}

func hasNamespace(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
}

// OpenNamespace opens a namespace of a process, for [specs.LinuxNamespace.Path].
func OpenNamespace(pid int, kind specs.LinuxNamespaceType) (*os.File, error) {
	name := string(kind)
	switch kind {
	case specs.NetworkNamespace:
		name = "net"
	case specs.MountNamespace:
		name = "mnt"
	default:
	}
	f, err := sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/%s", pid, name), namespaceKinds()[kind])
	return f, ended(err)
}
