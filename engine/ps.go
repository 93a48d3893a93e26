package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// ContainerFilter selects containers. Values of one kind are alternatives, but of labels all must
// be there; a container is selected if each kind that has values selects it.
type ContainerFilter struct {
	All       bool     // those that do not run, too
	IDs       []string // beginnings of IDs
	Names     []string // regular expressions
	Statuses  []string
	Exited    []int    // exit statuses
	Labels    []string // "key" or "key=value"
	Ancestors []string // images, by name or ID
	Volumes   []string // names of volumes, or paths in the container
	Healths   []string // statuses of health, or "none"
	Restarts  []string // names of restart policies
	Networks  []string // names or IDs of networks
	Before    string   // a container: only those that are older
	Since     string   // a container: only those that are younger
	OnBoot    []bool   // whether they are to be started with the machine, see [Container.startsOnBoot]
}

// ParseContainerFilter reads "key=value" options, with Docker's keys.
func ParseContainerFilter(options []string, all bool) (ContainerFilter, error) {
	f := ContainerFilter{All: all}
	return f, eachFilter(options, f.add)
}

func (f *ContainerFilter) add(key, value string) error {
	switch key {
	case "id":
		f.IDs = append(f.IDs, value)
	case "name":
		f.Names = append(f.Names, value)
		_, err := regexp.Compile(value)
		return err
	case "status":
		if !slices.Contains(Statuses(), value) {
			return fmt.Errorf("%w: use %s", ErrOption, strings.Join(Statuses(), ", "))
		}
		f.Statuses, f.All = append(f.Statuses, value), true
	case "exited":
		code, err := strconv.Atoi(value)
		f.Exited, f.All = append(f.Exited, code), true
		return err
	case "label":
		f.Labels = append(f.Labels, value)
	case "ancestor":
		f.Ancestors = append(f.Ancestors, value)
	case "volume":
		f.Volumes = append(f.Volumes, value)
	case "health":
		f.Healths = append(f.Healths, value)
	case "restart-policy":
		f.Restarts = append(f.Restarts, value)
	case "network":
		f.Networks = append(f.Networks, value)
	case "before":
		f.Before = value
	case "since":
		f.Since = value
	case "should-start-on-boot": // podman's
		return parseTruth(value, func(yes bool) { f.OnBoot = append(f.OnBoot, yes) })
	default:
		return fmt.Errorf("%w: use id, name, status, exited, label, ancestor, volume, network, before, since, health, restart-policy or should-start-on-boot", ErrOption)
	}
	return nil
}

// Containers lists containers, the newest first. What tarn could not do because it was killed is done
// now: containers that outlived it are ended, and those that were to be removed at their end are.
func (e *Engine) Containers(ctx context.Context, filter ContainerFilter) ([]*Container, error) {
	ancestors, err := e.ancestors(filter.Ancestors)
	if err != nil {
		return nil, err
	}
	times, err := newPeriod(filter.Since, filter.Before, func(key string) (time.Time, error) {
		c, err := e.container(ctx, key)
		if err != nil {
			return time.Time{}, err
		}
		return c.Created, nil
	})
	if err != nil {
		return nil, err
	}
	records, err := e.Store.Containers()
	if err != nil {
		return nil, err
	}
	var list []*Container
	for _, record := range records {
		c, err := e.loadContainer(ctx, record)
		if err != nil {
			return nil, err
		}
		if c.orphaned() {
			if err := e.collect(ctx, c); err != nil {
				return nil, fmt.Errorf("container %s: %w", c.Name, err)
			}
			if c.Settings.Host.AutoRemove {
				continue
			}
		}
		selected, err := filter.selects(c, ancestors)
		if err != nil {
			return nil, err
		}
		if selected && times.has(c.Created) {
			list = append(list, c)
		}
	}
	return list, e.networks.Collect()
}

// collect does for a container what its own tarn would have done at its end, unless someone else just
// did.
func (e *Engine) collect(ctx context.Context, c *Container) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if errors.Is(err, ErrNoContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := c.reload(); err != nil || !c.orphaned() {
		return err
	}
	if c.Running() {
		if err := c.kill(ctx); err != nil {
			return err
		}
	}
	if err := e.release(c); err != nil {
		return err
	}
	if c.Settings.Host.AutoRemove {
		return e.discard(ctx, c)
	}
	if c.State.Status != StatusCreated {
		c.setExit()
	}
	if err := removeAll(c.exitPath()); err != nil {
		return err
	}
	c.State.Owner = processID{}
	return c.WriteState(c.State)
}

// ancestors finds the images; one that is not there selects nothing.
func (e *Engine) ancestors(refs []string) ([]image.Digest, error) {
	var ids []image.Digest
	for _, ref := range refs {
		img, err := e.Image(ref)
		if err != nil && !errors.Is(err, ErrNoImage) {
			return nil, err
		}
		if err == nil {
			ids = append(ids, img.ID)
		}
	}
	return ids, nil
}

func (f *ContainerFilter) selects(c *Container, ancestors []image.Digest) (bool, error) {
	if !f.All && !c.Running() && c.State.Status != StatusRestarting {
		return false, nil
	}
	if !hasLabels(c.Settings.Config.Labels, f.Labels) {
		return false, nil
	}
	if !f.selectsLife(c) || !f.selectsNetwork(c) {
		return false, nil
	}
	named, err := anyMatches(f.Names, c.Name)
	selected := named &&
		(len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(c.ID, id) })) &&
		(len(f.Statuses) == 0 || slices.Contains(f.Statuses, c.Status())) &&
		(len(f.Exited) == 0 || c.State.Status == StatusExited && slices.Contains(f.Exited, c.State.ExitCode)) &&
		(len(f.Ancestors) == 0 || slices.Contains(ancestors, c.ImageID)) &&
		(len(f.Volumes) == 0 || slices.ContainsFunc(c.Settings.Mounts, func(m MountPoint) bool {
			return slices.Contains(f.Volumes, m.Name) || slices.Contains(f.Volumes, m.Destination)
		}))
	return selected, err
}

func (f *ContainerFilter) selectsNetwork(c *Container) bool {
	return len(f.Networks) == 0 || slices.Contains(f.Networks, c.Settings.Host.NetworkMode) ||
		slices.ContainsFunc(c.Settings.Networks, func(n NetworkSetting) bool {
			return slices.ContainsFunc(f.Networks, func(key string) bool { return key == n.Name || strings.HasPrefix(n.ID, key) })
		})
}

// selectsLife is about health and restarts.
func (f *ContainerFilter) selectsLife(c *Container) bool {
	if len(f.Healths) > 0 {
		status := "none"
		if h, err := c.Health(); err == nil && h != nil && c.Running() {
			status = h.Status
		}
		if !slices.Contains(f.Healths, status) {
			return false
		}
	}
	return (len(f.Restarts) == 0 || slices.Contains(f.Restarts, cmp.Or(c.Settings.Host.RestartPolicy.Name, RestartNo))) &&
		(len(f.OnBoot) == 0 || slices.Contains(f.OnBoot, c.startsOnBoot()))
}

// ImageName gives the container's image as the user named it, or its ID when that name means
// another image by now.
func (e *Engine) ImageName(c *Container) (string, error) {
	if c.State.Status == StatusDamaged {
		return "", nil // its record says nothing
	}
	img, err := e.Image(c.ImageName)
	switch {
	case err == nil && img.ID == c.ImageID:
		return c.ImageName, nil
	case err == nil || errors.Is(err, ErrNoImage):
		return c.ImageID.Short(), nil
	default:
		return "", err
	}
}

func anyMatches(patterns []string, name string) (bool, error) {
	if len(patterns) == 0 {
		return true, nil
	}
	for _, pattern := range patterns {
		matched, err := regexp.MatchString(pattern, name)
		if matched || err != nil {
			return matched, err
		}
	}
	return false, nil
}
