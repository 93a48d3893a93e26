package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// waitLook is how often Wait looks by itself: nobody tells of the end of a container whose monitor was killed.
const waitLook = time.Second

// recordLag is about how long the record of a container's end comes after the event.
const recordLag = 20 * time.Millisecond

// Wait waits until a container has ended and is not about to be started again, and gives its exit status.
// One that was never started is waited for, too.
func (e *Engine) Wait(ctx context.Context, key string) (int, error) {
	events, err := e.followEvents() // before the look, so that nothing is missed
	if err != nil {
		return 0, err
	}
	defer events.close()
	c, err := e.container(ctx, key)
	if err != nil {
		return 0, err
	}
	last := -1
	for {
		if c.orphaned() {
			if err := e.collect(ctx, c); err != nil {
				return 0, err
			}
		}
		switch c.State.Status {
		case StatusExited:
			return c.State.ExitCode, nil
		case StatusDamaged:
			return 0, c.Damaged
		}
		if last, err = events.awaitEnd(ctx, c, last); err != nil {
			return 0, err
		}
		seen := c
		if c, err = e.container(ctx, seen.ID); errors.Is(err, ErrNoContainer) {
			if last < 0 { // it was removed before the event was seen
				if last, err = events.awaitEnd(ctx, seen, last); err != nil {
					return 0, err
				}
			}
			if last >= 0 {
				return last, nil
			}
			return 0, fmt.Errorf("wait for container %s: it was removed", seen.ID[:12])
		}
		if err != nil {
			return 0, err
		}
	}
}

// awaitEnd waits for what may be the container's end, not for ever. It gives the status of the last end that
// it has seen, which last is if there is none.
func (r *eventReader) awaitEnd(ctx context.Context, c *Container, last int) (int, error) {
	until := time.Now().Add(waitLook)
	for {
		limited, cancel := context.WithDeadline(ctx, until)
		event, err := r.next(limited)
		cancel()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			return last, nil
		default:
			return last, err
		}
		if event.ID != c.ID {
			continue
		}
		switch event.Action {
		case "die":
			if status, err := strconv.Atoi(event.Actor.Attributes["exitCode"]); err == nil {
				last = status
			}
		case "destroy":
			return last, nil
		default:
			continue
		}
		// What comes after it, the state or the removal, is a moment away.
		until = time.Now().Add(recordLag)
	}
}
