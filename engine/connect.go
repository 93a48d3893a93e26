package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/monitor"
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
			if err := e.giveNames(ctx, c, n, namespace); err != nil {
				return errors.Join(err, e.networks.Leave(c.ID, n, namespace))
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

// giveNames has the monitor of a container that runs answer its questions for names, if n is the first of its networks
// in which there are any. A container in the foreground has no monitor: it has names when it is started again.
func (e *Engine) giveNames(ctx context.Context, c *Container, n *network.Network, namespace *os.File) error {
	if !n.Resolves() {
		return nil
	}
	before, err := e.resolves(ctx, c)
	if err != nil || newResolver(&c.Settings, true, before).own {
		return err
	}
	conn, err := sys.ConnectUnix(e.socketPath(c))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	sockets, err := e.networks.ListenForNames(namespace)
	if err != nil {
		return err
	}
	defer sockets.UDP.Close()
	defer sockets.TCP.Close()
	r := newResolver(&c.Settings, true, true)
	service, err := json.Marshal(monitor.NameService{Run: sockets.Run, Servers: r.upstream})
	if err == nil {
		err = sys.SendFiles(conn, monitor.Frame(monitor.Names, service), sockets.UDP, sockets.TCP)
	}
	if err == nil {
		err = awaitNames(conn)
	}
	if err != nil {
		return fmt.Errorf("names for container %s: %w", c.Name, err)
	}
	return writePlain(filepath.Join(c.Dir(), "resolv.conf"), r.file.String())
}

// resolves tells whether there are names in a network that the container has already.
func (e *Engine) resolves(ctx context.Context, c *Container) (bool, error) {
	for _, s := range c.Settings.Networks {
		n, err := e.networks.Find(ctx, s.Name)
		if err != nil || n.Resolves() {
			return err == nil, err
		}
	}
	return false, nil
}

// awaitNames waits for a monitor's answer. Meanwhile it sends what the container writes, too.
func awaitNames(conn *os.File) error {
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	frames := monitor.NewFrameReader(conn)
	for {
		kind, content, err := frames.Next()
		switch {
		case err != nil:
			return fmt.Errorf("its monitor: %w", err)
		case kind == monitor.Names && len(content) > 0:
			return fmt.Errorf("%w: %s", errMonitor, content)
		case kind == monitor.Names:
			return nil
		}
	}
}

// answerTime bounds how long a monitor may take.
const answerTime = 10 * time.Second

var errMonitor = errors.New("its monitor cannot")
