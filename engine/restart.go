package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RestartPolicy says when a container is started again after its end, with Docker's names.
type RestartPolicy struct {
	Name              string // one of the Restart constants
	MaximumRetryCount int    // for RestartOnFailure: how often at most; 0 for any number
}

// Restart policies.
const (
	RestartNo            = "no"
	RestartOnFailure     = "on-failure" // if its status is not 0
	RestartAlways        = "always"
	RestartUnlessStopped = "unless-stopped"
)

// ParseRestartPolicy reads what --restart takes; "" is RestartNo.
func ParseRestartPolicy(text string) (RestartPolicy, error) {
	name, count, counted := strings.Cut(text, ":")
	p := RestartPolicy{Name: name}
	bad := func() (RestartPolicy, error) {
		return p, fmt.Errorf("%w: restart policy %q: use no, on-failure[:TIMES], always or unless-stopped", ErrOption, text)
	}
	switch name {
	case "":
		p.Name = RestartNo
	case RestartNo, RestartOnFailure, RestartAlways, RestartUnlessStopped:
	default:
		return bad()
	}
	if counted {
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || name != RestartOnFailure {
			return bad()
		}
		p.MaximumRetryCount = n
	}
	return p, nil
}

// String is the reverse of ParseRestartPolicy.
func (p RestartPolicy) String() string {
	if p.MaximumRetryCount > 0 {
		return p.Name + ":" + strconv.Itoa(p.MaximumRetryCount)
	}
	return p.Name
}

// Docker's delays between starts: they double, and begin anew after a run of some length.
const (
	firstDelay   = 100 * time.Millisecond
	longestDelay = time.Minute
	longRun      = 10 * time.Second
)

// wantsRestart tells whether a container that has ended is to be started again, and counts that in its state.
func (c *Container) wantsRestart() bool {
	s := &c.State
	policy := c.Settings.Host.RestartPolicy
	switch policy.Name {
	case RestartAlways, RestartUnlessStopped:
	case RestartOnFailure:
		if s.ExitCode == 0 || policy.MaximumRetryCount > 0 && s.RestartCount >= policy.MaximumRetryCount {
			return false
		}
	default:
		return false
	}
	if s.Stopped {
		return false
	}
	if s.RestartDelay == 0 || s.FinishedAt.Sub(s.StartedAt) >= longRun {
		s.RestartDelay = firstDelay
	} else {
		s.RestartDelay = min(2*s.RestartDelay, longestDelay)
	}
	s.RestartCount++
	return true
}

// startsOnBoot tells whether the container is to run when the machine does, as podman understands the policies.
func (c *Container) startsOnBoot() bool {
	switch c.Settings.Host.RestartPolicy.Name {
	case RestartAlways:
		return true
	case RestartUnlessStopped:
		return !c.State.Stopped
	default:
		return false
	}
}

// RestartContainer stops a container, if it runs, and starts it.
func (e *Engine) RestartContainer(ctx context.Context, key string, opts StopOptions) error {
	c, err := e.container(ctx, key)
	if err != nil {
		return err
	}
	if c.Running() {
		// It is not removed now, even if that was wanted for its end.
		err := e.change(ctx, c, func() error {
			c.State.Kept = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := e.Stop(ctx, c.ID, opts); err != nil {
		return err
	}
	if _, err := e.Start(ctx, c.ID, StartOptions{}); err != nil {
		return err
	}
	return e.emit(c, "restart")
}
