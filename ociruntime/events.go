package ociruntime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

// event is a line of "events"; what is in it is called as runc calls it (its types/events.go).
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func events(ctx context.Context, r *runtime, args []string) (int, error) {
	var once bool
	var interval time.Duration
	flags := newFlags("events")
	flags.BoolVar(&once, "stats", false, "print what the container uses now, and end")
	flags.DurationVar(&interval, "interval", 5*time.Second, "print it every `duration`, until the container ends")
	rest, err := parse(flags, args, 1, 1)
	if err != nil {
		return 1, err
	}
	if interval <= 0 {
		return 1, fmt.Errorf("%w: the interval must be more than 0", errUsage)
	}
	rec, err := r.read(rest[0])
	if err != nil {
		return 1, err
	}
	if status, err := r.status(rec); err != nil {
		return 1, err
	} else if status == specs.StateStopped {
		return 1, errNotRunning(rec.ID)
	}
	if once {
		return 0, printUsage(rec)
	}
	return 0, r.watch(ctx, rec, interval)
}

func printUsage(rec record) error {
	stats, err := container.Stats(rec.Cgroup)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(event{"stats", rec.ID, stats})
}

// watch prints what the container uses again and again, and each time a process of it was killed for
// want of memory.
func (r *runtime) watch(ctx context.Context, rec record, interval time.Duration) error {
	killed, err := container.OOMKills(rec.Cgroup)
	if err != nil {
		return err
	}
	next := time.Now()
	for {
		if status, err := r.status(rec); err != nil || status == specs.StateStopped {
			return err
		}
		now, err := container.OOMKills(rec.Cgroup)
		if err != nil {
			return err
		}
		for ; killed < now; killed++ {
			if err := json.NewEncoder(os.Stdout).Encode(event{Type: "oom", ID: rec.ID}); err != nil {
				return err
			}
		}
		if !time.Now().Before(next) {
			if err := printUsage(rec); err != nil {
				return err
			}
			next = next.Add(interval)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Second, time.Until(next))):
		}
	}
}
