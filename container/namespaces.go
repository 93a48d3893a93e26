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
}

type namespace struct {
	kind int
	file *os.File
}

func (n *namespaces) close() {
	for _, j := range n.join {
		_ = j.file.Close()
	}
}

func namespaceKinds() map[specs.LinuxNamespaceType]int {
	return map[specs.LinuxNamespaceType]int{
		specs.MountNamespace: sys.NewMount, specs.PIDNamespace: sys.NewPID, specs.UTSNamespace: sys.NewUTS,
		specs.IPCNamespace: sys.NewIPC, specs.NetworkNamespace: sys.NewNet, specs.CgroupNamespace: sys.NewCgroup,
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
		case kind == sys.NewMount && ns.Path != "":
			return n, fmt.Errorf("joining a mount namespace: %w", ErrUnsupported)
		case ns.Path != "":
			f, err := sys.OpenNamespace(ns.Path, kind)
			if err != nil {
				return n, fmt.Errorf("join %s namespace: %w", ns.Type, err)
			}
			n.join = append(n.join, namespace{kind, f})
		case kind == sys.NewPID:
			n.fork |= sys.NewPID
		case kind == sys.NewCgroup:
			n.cgroup = true
		default:
			n.thread |= kind
		}
		seen |= kind
	}
	if seen&sys.NewMount == 0 {
		return n, fmt.Errorf("%w: no mount namespace", ErrSpec)
	}
	return n, nil
}

// enter moves the calling thread into the namespaces.
func (n *namespaces) enter(spec *specs.Spec) error {
	if err := sys.Unshare(n.thread); err != nil {
		return err
	}
	for _, j := range n.join {
		if err := sys.Setns(j.file, j.kind); err != nil {
			return err
		}
	}
	if n.thread&sys.NewNet != 0 {
		if err := sys.LoopbackUp(); err != nil {
			return err
		}
	}
	if spec.Hostname != "" {
		if err := sys.SetHostname(spec.Hostname); err != nil {
			return err
		}
	}
	if spec.Domainname != "" {
		return sys.SetDomainname(spec.Domainname)
	}
	return nil
}

func hasNamespace(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
}
