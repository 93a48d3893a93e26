package network

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sealed"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network/firewall"
	"github.com/tarnfs/tarn/network/link"
)

// CreateOptions says what network to make.
type CreateOptions struct {
	Name     string
	Driver   string      // "bridge", or "" for the same
	Subnets  []SubnetAsk // what is missing is chosen
	IPv6     bool        // also without a subnet of IPv6
	Internal bool
	Labels   map[string]string
	Options  map[string]string // see [Network.Options]
}

// SubnetAsk is a subnet as a user asks for it.
type SubnetAsk struct {
	Subnet  netip.Prefix // its host bits do not count
	Gateway netip.Addr   // invalid: the subnet's first address
	Range   netip.Prefix // invalid: all of it
}

const recordSuffix = ".json"

// Create makes a network, as far as it is a record: its devices are made when it is first used.
func (ns *Networks) Create(ctx context.Context, opts CreateOptions) (*Network, error) {
	unlock, err := ns.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := ns.create(opts)
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", opts.Name, err)
	}
	return n, nil
}

// create makes a record, under the lock.
func (ns *Networks) create(opts CreateOptions) (*Network, error) {
	n := &Network{
		Name: opts.Name, ID: newID(), Created: time.Now().UTC(), Driver: cmp.Or(opts.Driver, "bridge"),
		Internal: opts.Internal, Labels: opts.Labels, Options: opts.Options,
	}
	n.Device = cmp.Or(opts.Options[optBridgeName], deviceName(n))
	existing, err := ns.List()
	if err != nil {
		return nil, err
	}
	if err := n.choose(opts, existing); err != nil {
		return nil, err
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	for _, other := range existing {
		switch {
		case other.Name == n.Name:
			return nil, ErrExists
		case other.Device == n.Device:
			return nil, fmt.Errorf("%w: device %s is network %s's", ErrTaken, n.Device, other.Name)
		}
	}
	data, err := sealed.Encode(n)
	if err != nil {
		return nil, err
	}
	return n, atomicfile.Write(ns.recordPath(n.Name), data, 0o600)
}

// deviceName names the bridge. A default network's that is another store's keeps its name.
func deviceName(n *Network) string {
	if n.Name == Default && !link.Exists(defaultDevice) {
		return defaultDevice
	}
	return ownDevice(n)
}

// defaultDevice is the bridge of the default network, unless another store's has that name.
const defaultDevice = "tarn0"

func ownDevice(n *Network) string { return "tarn-" + n.ID[:10] }

// choose completes the subnets.
func (n *Network) choose(opts CreateOptions, existing []*Network) error {
	taken, err := subnetsInUse(existing)
	if err != nil {
		return err
	}
	ask := slices.Clone(opts.Subnets)
	is4 := func(a SubnetAsk) bool { return a.Subnet.Addr().Unmap().Is4() }
	if !slices.ContainsFunc(ask, is4) {
		free, err := freeSubnet(taken)
		if err != nil {
			return err
		}
		n.Subnets = append(n.Subnets, Subnet{Subnet: free, Gateway: free.Addr().Next()})
	}
	for _, a := range ask {
		if a.Subnet.IsValid() {
			s := Subnet{Subnet: a.Subnet.Masked(), Gateway: a.Gateway, Range: a.Range.Masked(), Chosen: true}
			if !s.Gateway.IsValid() {
				s.Gateway = s.Subnet.Addr().Next()
			}
			n.Subnets = append(n.Subnets, s)
			continue
		}
		return fmt.Errorf("%w: --gateway and --ip-range need a --subnet that they are in", ErrInvalid)
	}
	if _, v6 := n.IPv6(); opts.IPv6 && !v6 {
		local := localSubnet(n.ID)
		n.Subnets = append(n.Subnets, Subnet{Subnet: local, Gateway: local.Addr().Next()})
	}
	for _, s := range n.Subnets {
		if other := overlapping(s.Subnet, taken); other.IsValid() {
			return fmt.Errorf("%w: subnet %s overlaps with %s, which is a network or a route of this machine", ErrTaken, s.Subnet, other)
		}
	}
	return nil
}

// subnetsInUse lists those of other networks, of the host's routes and addresses, and of its resolvers.
func subnetsInUse(existing []*Network) ([]netip.Prefix, error) {
	used, err := link.Used()
	if err != nil {
		return nil, unable(err)
	}
	for _, n := range existing {
		for _, s := range n.Subnets {
			used = append(used, s.Subnet)
		}
	}
	for _, a := range HostResolvers() {
		used = append(used, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
	}
	return used, nil
}

// Find finds a network by its name, its ID, or the beginning of that. The default network is made if it
// is not there.
func (ns *Networks) Find(ctx context.Context, key string) (*Network, error) {
	if validName(key) {
		n, err := ns.read(key)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	if key == Default {
		return ns.createDefault(ctx)
	}
	all, err := ns.List()
	if err != nil {
		return nil, err
	}
	var found *Network
	for _, n := range all {
		if key == "" || !strings.HasPrefix(n.ID, key) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("network %s: several IDs begin like this", key)
		}
		found = n
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %s (see 'tarn network ls')", ErrNotFound, key)
	}
	return found, nil
}

func (ns *Networks) createDefault(ctx context.Context) (*Network, error) {
	unlock, err := ns.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if n, err := ns.read(Default); err == nil {
		return n, nil
	}
	n, err := ns.create(CreateOptions{Name: Default})
	if err != nil {
		return nil, fmt.Errorf("make the default network: %w", err)
	}
	return n, nil
}

// List lists the networks by name.
func (ns *Networks) List() ([]*Network, error) {
	entries, err := os.ReadDir(ns.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Network
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || atomicfile.IsTemp(e.Name()) {
			continue
		}
		n, err := ns.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

const maxRecord = 1 << 20

func (ns *Networks) read(name string) (*Network, error) {
	f, err := os.Open(ns.recordPath(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	n := &Network{}
	if err := sealed.Decode(data, n); err != nil {
		return nil, fmt.Errorf("network %s: its record %s: %w", name, f.Name(), err)
	}
	if err := n.check(); err != nil || n.Name != name || len(n.ID) != 64 {
		return nil, fmt.Errorf("network %s: its record %s is damaged: %w", name, f.Name(), err)
	}
	return n, nil
}

// Remove removes a network that has no containers.
func (ns *Networks) Remove(ctx context.Context, key string) (*Network, error) {
	if key == Default {
		return nil, fmt.Errorf("%w: %s is the default network and cannot be removed", ErrInvalid, key)
	}
	unlock, err := ns.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := ns.Find(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := ns.removeNetwork(ctx, n); err != nil {
		return nil, fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return n, nil
}

// removeNetwork takes a network away, its record last: one that was killed can be done again. Meanwhile nobody
// joins the network, for which its directory would have to be locked.
func (ns *Networks) removeNetwork(ctx context.Context, n *Network) error {
	dir, err := ns.openRun(ctx, n, true)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := ns.Collect(); err != nil {
		return err
	}
	endpoints, err := ns.Endpoints(n)
	if err != nil {
		return err
	}
	if len(endpoints) > 0 {
		var names []string
		for _, e := range endpoints {
			names = append(names, e.Name)
		}
		return fmt.Errorf("%w: %s", ErrInUse, strings.Join(names, ", "))
	}
	if err := errors.Join(firewall.Remove(n.rules()), n.bridge().Remove()); err != nil {
		return unable(err)
	}
	if err := os.Remove(ns.recordPath(n.Name)); err != nil {
		return err
	}
	return errors.Join(atomicfile.SyncDir(ns.dir), os.RemoveAll(ns.runDir(n)))
}

// lock is held by whoever makes or removes networks.
func (ns *Networks) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(ns.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(ns.dir)
	if err != nil {
		return nil, err
	}
	if err := sys.Flock(ctx, f, true); err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func (ns *Networks) recordPath(name string) string { return filepath.Join(ns.dir, name+recordSuffix) }
func (ns *Networks) runDir(n *Network) string      { return filepath.Join(ns.run, n.ID) }

// openRun opens the directory of a network's endpoints, locked: for those who join it, or alone for who
// removes it.
func (ns *Networks) openRun(ctx context.Context, n *Network, alone bool) (*os.File, error) {
	if err := os.MkdirAll(ns.runDir(n), 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(ns.runDir(n))
	if err != nil {
		return nil, err
	}
	if err := sys.Flock(ctx, f, alone); err != nil {
		return nil, err
	}
	if now, err := ns.read(n.Name); err != nil || now.ID != n.ID {
		return nil, errors.Join(f.Close(), os.RemoveAll(ns.runDir(n)), fmt.Errorf("%w: %s", ErrNotFound, n.Name))
	}
	return f, nil
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it does not fail
	return hex.EncodeToString(b)
}
