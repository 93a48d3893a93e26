package sys

import "golang.org/x/sys/unix"

// SlaveMounts has nothing propagate from the child's mounts to those they are copies of.
func (p *Program) SlaveMounts() {
	p.call("make mounts slaves", unix.SYS_MOUNT, p.str("none"), p.str("/"), 0, unix.MS_REC|unix.MS_SLAVE, 0)
}
