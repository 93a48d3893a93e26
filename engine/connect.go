package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network"
)

// changedNetworks is what is recorded when a container's networks are not those any more that it was
// made with.
type changedNetworks struct {
	Networks []NetworkSetting
}

// ConnectOptions says what a container is to be in a network.
type ConnectOptions struct {
	IP, IP6 string
	Aliases []string
}

// ConnectNetwork puts a container into a network, at once if it runs, and each time it is started.
func (e *Engine) ConnectNetwork(ctx context.Context, networkKey, key string, opts ConnectOptions) error {
	n, err := e.networks.Find(ctx, networkKey)
	if err != nil {
		return err
	}
	list := []NetworkSetting{{Name: n.Name, ID: n.ID}}
	if err := addToFirst(list, &NetworkOptions{IP: opts.IP, IP6: opts.IP6, Aliases: opts.Aliases}); err != nil {
		return err
	}
	setting := list[0]
	return e.changeNetworks(ctx, key, func(c *Container, namespace *os.File) error {
		if slices.ContainsFunc(c.Settings.Networks, func(s NetworkSetting) bool { return s.ID == n.ID }) {
			return fmt.Errorf("%w: container %s is in network %s already", network.ErrExists, c.Name, n.Name)
		}
		if namespace != nil {
			r := requestOf(n, setting)
			if err := e.networks.Join(ctx, network.Sandbox{Container: c.ID, Name: c.Name}, r, namespace); err != nil {
				return err
			}
		}
		c.Settings.Networks = append(c.Settings.Networks, setting)
		return nil
	})
}

// DisconnectNetwork takes a container out of a network.
func (e *Engine) DisconnectNetwork(ctx context.Context, networkKey, key string) error {
	n, err := e.networks.Find(ctx, networkKey)
	if err != nil {
		return err
	}
	return e.changeNetworks(ctx, key, func(c *Container, namespace *os.File) error {
		i := slices.IndexFunc(c.Settings.Networks, func(s NetworkSetting) bool { return s.ID == n.ID })
		if i < 0 {
			return fmt.Errorf("%w: container %s is not in network %s", network.ErrNotFound, c.Name, n.Name)
		}
		if namespace != nil {
			if err := e.networks.Leave(c.ID, n, namespace); err != nil {
				return err
			}
		}
		c.Settings.Networks = slices.Delete(c.Settings.Networks, i, i+1)
		return nil
	})
}

// changeNetworks changes the networks that a container has while it is locked, and records them. namespace
// is nil if it does not run.
func (e *Engine) changeNetworks(ctx context.Context, key string, change func(c *Container, namespace *os.File) error) (err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if c.Damaged != nil {
		return c.Damaged
	}
	if !isNetwork(c.Settings.Host.NetworkMode) {
		return fmt.Errorf("%w: container %s was made with network %s, and can be in no other", ErrOption, c.Name, c.Settings.Host.NetworkMode)
	}
	lock, err := c.lockPresent(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	c.readSettings()
	if err := c.reload(); err != nil {
		return err
	}
	var namespace *os.File
	if c.Running() {
		if namespace, err = sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/net", c.State.Process.PID), sys.NewNet); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		defer namespace.Close()
		if !c.State.Process.alive() {
			return fmt.Errorf("container %s: %w", c.Name, ErrNotRunning)
		}
	}
	if err := change(c, namespace); err != nil {
		return err
	}
	return c.WriteNetworks(changedNetworks{c.Settings.Networks})
}

func requestOf(n *network.Network, s NetworkSetting) network.Request {
	r := network.Request{Network: n, IPv4: s.IPv4, IPv6: s.IPv6, Aliases: s.Aliases}
	if s.MAC != "" {
		r.MAC, _ = net.ParseMAC(s.MAC) // it was checked
	}
	return r
}
