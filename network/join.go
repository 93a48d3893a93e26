package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/tarnfs/tarn/network/link"
)

// Join puts a container that runs into another network. Its keeper, another process, goes on as before; it
// takes this away with all else. The caller lets nobody else do the same to the container meanwhile.
func (ns *Networks) Join(ctx context.Context, s Sandbox, r Request, namespace *os.File) error {
	f, places, err := ns.openKept(s.Container)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := readMemberships(f)
	if err != nil {
		return err
	}
	wayOut := true
	for _, n := range m.Networks {
		if n.ID == r.Network.ID {
			return fmt.Errorf("%w: the container is in network %s already", ErrExists, r.Network.Name)
		}
		wayOut = wayOut && n.Internal
	}
	// First of all it is written down where there may be something to be taken away.
	m.Networks = append(m.Networks, membership(r.Network))
	if err := overwrite(f, m); err != nil {
		return err
	}
	e, err := ns.join(ctx, s, r, freeInterface(places))
	if err != nil {
		return err
	}
	p := &place{*e, r.Network}
	if err := p.connect(namespace, wayOut && !r.Network.Internal); err != nil {
		return errors.Join(unable(err), ns.remove(e))
	}
	return nil
}

// Leave takes a container that runs out of a network.
func (ns *Networks) Leave(container string, n *Network, namespace *os.File) error {
	f, places, err := ns.openKept(container)
	if err != nil {
		return err
	}
	defer f.Close()
	i := slices.IndexFunc(places, func(e Endpoint) bool { return e.Network == n.ID })
	if i < 0 {
		return fmt.Errorf("%w: the container is not in network %s", ErrNotFound, n.Name)
	}
	if err := link.Disconnect(places[i].Device); err != nil {
		return unable(err)
	}
	if err := ns.remove(&places[i]); err != nil {
		return err
	}
	m, err := readMemberships(f)
	if err != nil {
		return err
	}
	for i := range m.Networks {
		if m.Networks[i].ID == n.ID {
			m.Networks = slices.Delete(m.Networks, i, i+1)
			break
		}
	}
	if err := overwrite(f, m); err != nil || n.Internal {
		return err
	}
	return ns.findWayOut(slices.Delete(places, i, i+1), namespace)
}

// findWayOut gives a container default routes by the first of its networks that leads out, if it has none.
func (ns *Networks) findWayOut(places []Endpoint, namespace *os.File) error {
	all, err := ns.List()
	if err != nil {
		return err
	}
	for _, p := range places {
		for _, n := range all {
			if n.ID != p.Network || n.Internal {
				continue
			}
			var gateways []netip.Addr
			for _, s := range n.Subnets {
				gateways = append(gateways, s.Gateway)
			}
			return link.AddGateways(namespace, p.Interface, gateways)
		}
	}
	return nil
}

// openKept opens the file of a container that has a keeper, and lists its places.
func (ns *Networks) openKept(container string) (*os.File, []Endpoint, error) {
	places, err := ns.Of(container)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(filepath.Join(ns.keepers(), container), os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the container has no networks of its own, and can be in none", ErrInvalid)
	}
	return f, places, nil
}

// freeInterface gives the first name for a device that the container's others do not have.
func freeInterface(places []Endpoint) string {
	for i := 0; ; i++ {
		name := "eth" + strconv.Itoa(i)
		if !slices.ContainsFunc(places, func(e Endpoint) bool { return e.Interface == name }) {
			return name
		}
	}
}

// Rename has a container be found by another name, if it is in networks. The caller lets nobody else do the same
// meanwhile.
func (ns *Networks) Rename(container, name string) error {
	places, err := ns.Of(container)
	if err != nil {
		return err
	}
	for i := range places {
		e := &places[i]
		if e.Network == Pasta {
			continue // where nobody knows its name
		}
		if len(e.Names) > 0 {
			e.Names[0] = name // as join puts them
		}
		e.Name = name
		if err := ns.rewrite(e); err != nil {
			return err
		}
		// Whoever has read the directory sees by its time that it is to be read again.
		now := time.Now()
		if err := os.Chtimes(filepath.Join(ns.run, e.Network), now, now); err != nil {
			return err
		}
	}
	return nil
}
