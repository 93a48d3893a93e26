package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/subid"
	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/store"
)

// autoRanges are the numbers for containers with "auto": those that the users "tarn" or "containers" have, as
// with podman, or else what its manual proposes.
func autoRanges(path string) ([]subid.Range, error) {
	ranges, err := subid.Ranges(path, "tarn", "containers")
	if err == nil && len(ranges) == 0 {
		ranges = []subid.Range{{First: 1 << 31, Size: 1<<31 - 2}}
	}
	return ranges, err
}

// namedMappings maps a container's users, from root on, to all that the named users have.
func namedMappings(user, group string) (*IDMappings, error) {
	if user == "" {
		user = group
	}
	if group == "" {
		group = user
	}
	m := &IDMappings{}
	for _, kind := range []struct {
		path, name string
		to         *[]string
	}{{subid.Users, user, &m.UidMap}, {subid.Groups, group, &m.GidMap}} {
		ranges, err := subid.Ranges(kind.path, kind.name)
		if err != nil {
			return nil, err
		}
		if len(ranges) == 0 {
			return nil, fmt.Errorf("%w: %s has no range for %s", ErrOption, kind.path, kind.name)
		}
		next := uint32(0)
		for _, r := range ranges {
			*kind.to = append(*kind.to, formatMapping(specs.LinuxIDMapping{ContainerID: next, HostID: r.First, Size: r.Size}))
			next += r.Size
		}
	}
	return m, nil
}

// lease says which numbers a container has for as long as it runs. It is a file below $TARN_RUN, locked by
// who starts the container until it runs. Afterwards it counts if the container does; whoever looks
// for free numbers removes those that do not.
type lease struct {
	Container string `json:"container"`
	UID       uint32 `json:"uid"`
	GID       uint32 `json:"gid"`
	Size      uint32 `json:"size"`
}

// leaseUsers finds numbers that no other container has, and takes them.
func (e *Engine) leaseUsers(ctx context.Context, id string, size uint32) (uids, gids []specs.LinuxIDMapping, held *os.File, err error) {
	path := filepath.Join(e.Store.Run(), "userns")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, nil, nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	defer dir.Close()
	if err := sys.Flock(ctx, dir, true); err != nil {
		return nil, nil, nil, err
	}
	taken, err := e.leases(path)
	if err != nil {
		return nil, nil, nil, err
	}
	l := lease{Container: id, Size: size}
	var inUse, inUseGroups []subid.Range
	for _, t := range taken {
		inUse, inUseGroups = append(inUse, subid.Range{First: t.UID, Size: t.Size}), append(inUseGroups, subid.Range{First: t.GID, Size: t.Size})
	}
	if l.UID, err = free(subid.Users, inUse, size); err != nil {
		return nil, nil, nil, err
	}
	if l.GID, err = free(subid.Groups, inUseGroups, size); err != nil {
		return nil, nil, nil, err
	}
	if held, err = writeLease(filepath.Join(path, id), l); err != nil {
		return nil, nil, nil, err
	}
	return []specs.LinuxIDMapping{{HostID: l.UID, Size: size}}, []specs.LinuxIDMapping{{HostID: l.GID, Size: size}}, held, nil
}

// leases lists those that count, and removes the others.
func (e *Engine) leases(path string) ([]lease, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var list []lease
	for _, entry := range entries {
		l, counts, err := e.readLease(filepath.Join(path, entry.Name()))
		if err != nil {
			return nil, err
		}
		if counts {
			list = append(list, l)
			continue
		}
		if err := os.Remove(filepath.Join(path, entry.Name())); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (e *Engine) readLease(path string) (l lease, counts bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return l, false, err
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&l); err != nil {
		return l, false, nil // its maker died before it wrote it
	}
	if mine, err := sys.TryFlock(f, true); err != nil || !mine {
		return l, true, err // it is about to start
	}
	record, err := e.Store.Container(l.Container)
	if errors.Is(err, store.ErrNotFound) {
		return l, false, nil
	}
	if err != nil {
		return l, false, err
	}
	c := &Container{Container: record}
	if err := c.reload(); err != nil {
		return l, false, err
	}
	return l, c.Running(), nil
}

func writeLease(path string, l lease) (*os.File, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := sys.WaitFlock(f, true); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Write(text); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// free finds size numbers in a row, none of them in use.
func free(path string, inUse []subid.Range, size uint32) (uint32, error) {
	ranges, err := autoRanges(path)
	if err != nil {
		return 0, err
	}
	slices.SortFunc(inUse, func(a, b subid.Range) int { return int(int64(a.First) - int64(b.First)) })
	for _, r := range ranges {
		at := uint64(r.First)
		for _, used := range inUse {
			if used.End() <= at {
				continue
			}
			if uint64(used.First) >= at+uint64(size) {
				break
			}
			at = used.End()
		}
		if at+uint64(size) <= r.End() {
			return uint32(at), nil
		}
	}
	return 0, fmt.Errorf("%w: %d numbers in a row are not free: give 'containers' a larger range in %s, or use --userns auto:size=NUMBER", ErrOption, size, path)
}
