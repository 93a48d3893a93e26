package sys

import "golang.org/x/sys/unix"

// SlaveMounts has nothing propagate from the child's mounts to those they are copies of.
func (p *Program) SlaveMounts() {
	p.call("make mounts slaves", unix.SYS_MOUNT, p.str("none"), p.str("/"), 0, unix.MS_REC|unix.MS_SLAVE, 0)
}

// BindMount mounts what is at a path at another one, with all below it.
func (p *Program) BindMount(step, source, target string) {
	p.call(step, unix.SYS_MOUNT, p.str(source), p.str(target), 0, unix.MS_BIND|unix.MS_REC, 0)
}
