package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Kept are the files of an [Attachment] that another program can keep in this process's place: what the
// container has of networks counts as long as they are open.
type Kept struct {
	Held     []*os.File // a locked file, and ports: to be held open, no more
	Proxied  []Proxied
	UDP, TCP *os.File // where the container asks for names; nil if nobody answers
	Run      string   // for dns.Zone
}

// Proxied is a socket what comes to which is passed on, see package proxy.
type Proxied struct {
	Socket *os.File
	To     netip.AddrPort
}

// Files gives the files that keep the attachment. They are others than its own, which end with this program.
func (a *Attachment) Files() (k Kept, err error) {
	add := func(b binding) {
		filer, ok := b.socket.(interface{ File() (*os.File, error) })
		if err != nil || !ok {
			return
		}
		var f *os.File
		switch f, err = filer.File(); {
		case err != nil:
		case b.passedOn.IsValid():
			k.Proxied = append(k.Proxied, Proxied{f, b.passedOn})
		default:
			k.Held = append(k.Held, f)
		}
	}
	for _, b := range a.bindings {
		add(b)
	}
	for _, s := range a.names {
		var f *os.File
		switch s := s.(type) {
		case *net.UDPConn:
			f, err = s.File()
			k.UDP = f
		case *net.TCPListener:
			f, err = s.File()
			k.TCP = f
		}
		if err != nil {
			return k, fmt.Errorf("networks: %w", err)
		}
	}
	if a.keeper != nil {
		k.Held = append(k.Held, a.keeper.file)
	}
	k.Run = a.networks.run
	return k, err
}

// endTime bounds how long a keeper may take to end when its container has ended.
const endTime = 5 * time.Second

// AwaitEnd waits until the keeper of a container that has ended is gone, so that Release finds nobody. One that takes
// too long is left to whoever finds it dead.
func (ns *Networks) AwaitEnd(ctx context.Context, container string) error {
	f, err := os.Open(filepath.Join(ns.keepers(), container))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	err = sys.Flock(ctx, f, false)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return errors.Join(err, f.Close())
}

// Release takes away what a container has whose keeper is gone.
func (ns *Networks) Release(container string) error {
	return ns.collectKeeper(filepath.Join(ns.keepers(), container))
}
