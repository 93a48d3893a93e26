package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network"
	"github.com/tarnfs/tarn/network/pasta"
)

// wiring puts a container into its networks while the rest of it is made.
type wiring struct {
	attachment *network.Attachment
	gateway    netip.Addr // of the way out; by which the host is reached
	claimed    chan error // the container's addresses are known, or why not
	connected  chan error // its links are there
}

// joinedNetwork opens the network namespace of the container that this one shares it with.
func (e *Engine) joinedNetwork(ctx context.Context, mode string) (*os.File, error) {
	id, ok := strings.CutPrefix(mode, networkContainer)
	if !ok {
		return nil, nil //nolint:nilnil // it has its own, or the host's
	}
	c, err := e.container(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("join the network of another container: %w", err)
	}
	if !c.Running() {
		return nil, fmt.Errorf("join the network of container %s: %w: start it first", c.Name, ErrNotRunning)
	}
	f, err := sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/net", c.State.Process.PID), sys.NewNet)
	if err == nil && !c.State.Process.alive() {
		err = errors.Join(ErrNotRunning, f.Close()) // the number was another process's by then
	}
	if err != nil {
		return nil, fmt.Errorf("join the network of container %s: %w", c.Name, err)
	}
	return f, nil
}

// wire begins to put the container into its networks. Its namespaces are being made, and it is recorded.
func (l *launch) wire(ctx context.Context) error {
	c := l.Container
	if options, ok := pastaOptions(c.Settings.Host.NetworkMode); ok {
		return l.wireBeside(ctx, options)
	}
	if len(c.Settings.Networks) == 0 {
		return nil
	}
	requests, err := l.requests(ctx, c.Settings.Networks)
	if err != nil {
		return err
	}
	ports, err := portMappings(&c.Settings)
	if err != nil {
		return err
	}
	names := slices.ContainsFunc(requests, func(r network.Request) bool { return r.Network.Resolves() })
	l.resolver = newResolver(&c.Settings, true, names)
	w := &wiring{claimed: make(chan error, 1), connected: make(chan error, 1)}
	if i := slices.IndexFunc(requests, func(r network.Request) bool { return !r.Network.Internal }); i >= 0 {
		w.gateway = requests[i].Network.IPv4().Gateway
	} else {
		l.resolver.upstream = nil // from an internal network nothing leads out, names neither
	}
	namespace := l.made.NetworkNamespace()
	who := network.Sandbox{Container: c.ID, Name: c.Name}
	go func() {
		var err error
		w.attachment, err = l.networks.Attach(ctx, who, requests, ports)
		w.claimed <- err
		file, waitErr := namespace()
		if file != nil {
			defer file.Close()
		}
		if err = errors.Join(err, waitErr); err == nil {
			err = w.attachment.Connect(file)
		}
		if err == nil && l.resolver.own {
			err = w.attachment.ServeNames(ctx, file, l.resolver.upstream)
		}
		w.connected <- err
	}()
	l.wiring = w
	return nil
}

// wireBeside has pasta connect the container. Its addresses are known when that is done.
func (l *launch) wireBeside(ctx context.Context, options pasta.Options) error {
	c := l.Container
	ports, err := portMappings(&c.Settings)
	if err != nil {
		return err
	}
	l.resolver = newPastaResolver(&c.Settings, options)
	w := &wiring{claimed: make(chan error, 1), connected: make(chan error, 1)}
	namespace := l.made.NetworkNamespace()
	go func() {
		file, err := namespace()
		if err == nil {
			w.attachment, err = l.networks.AttachBeside(ctx, network.Sandbox{Container: c.ID, Name: c.Name}, l.beside, options, ports, file)
			w.gateway = w.attachment.Host()
			_ = file.Close()
		} else {
			l.beside.Discard()
		}
		w.claimed <- err
		w.connected <- err
	}()
	l.wiring = w
	return nil
}

// requests finds the networks.
func (l *launch) requests(ctx context.Context, settings []NetworkSetting) ([]network.Request, error) {
	var list []network.Request
	for _, s := range settings {
		n, err := l.networks.Find(ctx, s.Name)
		if err == nil && n.ID != s.ID {
			err = fmt.Errorf("%w: %s is not the one any more that the container was made with", network.ErrNotFound, s.Name)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, requestOf(n, s))
	}
	return list, nil
}

// awaitAddresses waits until it is known which addresses the container has.
func (l *launch) awaitAddresses() error {
	if l.wiring == nil {
		return nil
	}
	err := <-l.wiring.claimed
	l.wiring.claimed <- nil // for who asks again
	return err
}

// awaitLinks waits until the container is in its networks.
func (l *launch) awaitLinks() error {
	if l.wiring == nil {
		return nil
	}
	err := <-l.wiring.connected
	l.wiring.connected <- nil
	return err
}

// unwire takes the container out of its networks.
func (l *launch) unwire() error {
	if l.wiring == nil {
		return nil
	}
	_ = l.awaitLinks() // it was told, or nobody wants to know any more
	return l.wiring.attachment.Close()
}

// writeNetworkFiles makes the container's files that say who it is in its networks.
func (l *launch) writeNetworkFiles() error {
	if err := l.awaitAddresses(); err != nil {
		return err
	}
	if strings.HasPrefix(l.Settings.Host.NetworkMode, networkContainer) {
		return nil // it has the other's
	}
	var places []network.Endpoint
	var gateway netip.Addr
	if l.wiring != nil {
		places, gateway = l.wiring.attachment.Endpoints(), l.wiring.gateway
	} else {
		l.resolver = newResolver(&l.Settings, false, false)
	}
	return writeNetworkFiles(l.Container.Container, &l.Settings, places, gateway, l.resolver.file.String())
}
