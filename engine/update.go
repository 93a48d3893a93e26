package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/store"
)

// UpdateOptions changes a container. nil leaves what it is.
type UpdateOptions struct {
	Restart   *RestartPolicy
	Resources *ResourceOptions
}

// Update changes a container, also while it runs.
func (e *Engine) Update(ctx context.Context, key string, opts UpdateOptions) (err error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	lock, err := c.lockPresent(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if c.Damaged != nil {
		return c.Damaged
	}
	if err := e.readAgain(c); err != nil {
		return err
	}
	if err := c.update(ctx, opts); err != nil {
		return fmt.Errorf("update container %s: %w", c.Name, err)
	}
	raw, err := json.Marshal(c.Settings)
	if err != nil {
		return err
	}
	c.Config = raw
	return errors.Join(e.Store.ChangeContainer(c.Container), e.emit(c, "update"))
}

// readAgain reads the record of a container that is locked now.
func (e *Engine) readAgain(c *Container) error {
	record, err := e.Store.Container(c.ID)
	if errors.Is(err, store.ErrNotFound) {
		return noContainer(c.Name)
	}
	if err != nil {
		return err
	}
	c.Container = record
	if c.readSettings(); c.Damaged != nil {
		return c.Damaged
	}
	return c.reload()
}

func (c *Container) update(ctx context.Context, opts UpdateOptions) error {
	if opts.Restart != nil {
		if c.Settings.Host.AutoRemove && opts.Restart.Name != RestartNo {
			return fmt.Errorf("%w: it is removed at its end, and cannot be started again", ErrOption)
		}
		c.Settings.Host.RestartPolicy = *opts.Restart
	}
	if opts.Resources != nil {
		return c.updateResources(ctx, *opts.Resources)
	}
	return nil
}

// updateResources changes limits: of the container when it starts again, and now if it runs.
func (c *Container) updateResources(ctx context.Context, opts ResourceOptions) error {
	limits := &c.Settings.Host.Resources
	if opts.Memory == "" && opts.MemorySwap+opts.MemoryReservation != "" && limits.Memory != 0 {
		opts.Memory = strconv.FormatInt(limits.Memory, 10) // which they are judged by
	}
	changes, err := opts.parse()
	if err != nil {
		return err
	}
	if c.Running() {
		spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
		if err := changes.addTo(spec); err != nil {
			return err
		}
		if changes.PidsLimit != nil {
			spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: changes.PidsLimit}
		}
		if err := container.SetResources(ctx, c.cgroupPath(), spec.Linux.Resources); err != nil {
			return err
		}
	}
	limits.merge(&changes)
	return nil
}

// merge takes over what changes say. --cpus, and --cpu-period with --cpu-quota, are two ways to say one thing.
func (r *Resources) merge(changes *Resources) {
	if changes.NanoCpus != 0 {
		r.CpuPeriod, r.CpuQuota = 0, 0
	}
	if changes.CpuPeriod != 0 || changes.CpuQuota != 0 {
		r.NanoCpus = 0
	}
	for to, from := range map[*int64]int64{
		&r.NanoCpus: changes.NanoCpus, &r.CpuPeriod: changes.CpuPeriod, &r.CpuQuota: changes.CpuQuota, &r.CpuShares: changes.CpuShares,
		&r.CpuRealtimePeriod: changes.CpuRealtimePeriod, &r.CpuRealtimeRuntime: changes.CpuRealtimeRuntime,
		&r.Memory: changes.Memory, &r.MemorySwap: changes.MemorySwap, &r.MemoryReservation: changes.MemoryReservation,
	} {
		if from != 0 {
			*to = from
		}
	}
	r.CpusetCpus, r.CpusetMems = cmp.Or(changes.CpusetCpus, r.CpusetCpus), cmp.Or(changes.CpusetMems, r.CpusetMems)
	r.BlkioWeight, r.PidsLimit = cmp.Or(changes.BlkioWeight, r.BlkioWeight), cmp.Or(changes.PidsLimit, r.PidsLimit)
}
