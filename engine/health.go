package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/atomicfile"
)

// Health is what checks have said of a container, with Docker's names.
type Health struct {
	Status        string // one of the Health constants
	FailingStreak int    // failures since the last success
	Log           []HealthResult
}

// HealthResult is one check.
type HealthResult struct {
	Start, End time.Time
	ExitCode   int // 0: healthy; -1: it took too long, or could not be started
	Output     string
}

// Statuses of health.
const (
	HealthStarting  = "starting"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

// Docker's defaults and limits.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
	healthResults       = 5
	healthOutput        = 4096 // bytes of a result's output
)

// HealthOptions change how a container's health is checked.
type HealthOptions struct {
	Off     bool   // not at all
	Command string // for the shell; else the image's
	// Zero: the image's, or the default.
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// apply changes the image's check, which may be nil.
func (o *HealthOptions) apply(check *image.Healthcheck) (*image.Healthcheck, error) {
	changed := *o != HealthOptions{}
	if !changed {
		return check, nil
	}
	if o.Off {
		if *o != (HealthOptions{Off: true}) {
			return nil, fmt.Errorf("%w: --no-healthcheck: leave out the other --health options", ErrOption)
		}
		return &image.Healthcheck{Test: []string{"NONE"}}, nil
	}
	if o.Retries < 0 {
		return nil, fmt.Errorf("%w: --health-retries: it cannot be negative", ErrOption)
	}
	full := image.Healthcheck{}
	if check != nil {
		full = *check
	}
	if o.Command != "" {
		full.Test = []string{"CMD-SHELL", o.Command}
	}
	if o.Retries > 0 {
		full.Retries = o.Retries
	}
	for value, to := range map[*time.Duration]*time.Duration{
		&o.Interval: &full.Interval, &o.Timeout: &full.Timeout, &o.StartPeriod: &full.StartPeriod, &o.StartInterval: &full.StartInterval,
	} {
		if *value < 0 || *value > 0 && *value < time.Millisecond {
			return nil, fmt.Errorf("%w: durations of health checks: use 1ms or more", ErrOption)
		}
		if *value > 0 {
			*to = *value
		}
	}
	return &full, nil
}

// healthcheck gives how the container's health is checked, with nothing left to defaults; nil if it is not.
func (c *Container) healthcheck() *image.Healthcheck {
	check := c.Settings.Config.Healthcheck
	if check == nil || len(check.Test) < 2 || check.Test[0] == "NONE" {
		return nil
	}
	full := *check
	for value, standard := range map[*time.Duration]time.Duration{
		&full.Interval: healthInterval, &full.Timeout: healthTimeout, &full.StartInterval: healthStartInterval,
	} {
		if *value <= 0 {
			*value = standard
		}
	}
	if full.Retries <= 0 {
		full.Retries = healthRetries
	}
	return &full
}

func (c *Container) healthPath() string { return filepath.Join(c.Dir(), "health.json") }

// Health gives what checks have said since the container's start; nil if its health is not checked.
func (c *Container) Health() (*Health, error) {
	if c.State.Status == StatusDamaged || c.healthcheck() == nil || c.State.StartedAt.IsZero() {
		return nil, nil //nolint:nilnil // there is no health then
	}
	h := &Health{Status: HealthStarting, Log: []HealthResult{}}
	text, err := os.ReadFile(c.healthPath())
	if errors.Is(err, os.ErrNotExist) { // there was no check yet
		text, err = []byte("{}"), nil
	}
	if err != nil {
		return nil, err
	}
	return h, json.Unmarshal(text, h)
}

// CheckHealth checks a container's health once, and records what comes of it.
func (e *Engine) CheckHealth(ctx context.Context, id string) error {
	c, err := e.containerByID(id)
	if err != nil {
		return err
	}
	check := c.healthcheck()
	if check == nil || !c.Running() || c.State.Paused {
		return nil
	}
	result := e.probe(ctx, c, check)
	h, err := c.Health()
	if err != nil {
		h = &Health{Status: HealthStarting} // its file was damaged
	}
	before := h.Status
	h.add(result, check, c.State.StartedAt)
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	// The container may have ended meanwhile, and been started again.
	if now := c.refreshed(); now.gone() || now.State.Process != c.State.Process {
		return nil
	}
	if err := atomicfile.Replace(c.healthPath(), text, 0o600); err != nil {
		return err
	}
	if h.Status != before {
		return e.emit(c, "health_status: "+h.Status)
	}
	return nil
}

// add takes in a result. Failures do not count in the start period, until there was a success.
func (h *Health) add(result HealthResult, check *image.Healthcheck, started time.Time) {
	h.Log = append(h.Log, result)
	h.Log = h.Log[max(0, len(h.Log)-healthResults):]
	if result.ExitCode == 0 {
		h.FailingStreak, h.Status = 0, HealthHealthy
		return
	}
	if h.Status == HealthStarting && result.Start.Sub(started) < check.StartPeriod {
		return
	}
	if h.FailingStreak++; h.FailingStreak >= check.Retries {
		h.Status = HealthUnhealthy
	}
}

// probe executes the check in the container.
func (e *Engine) probe(ctx context.Context, c *Container, check *image.Healthcheck) HealthResult {
	result := HealthResult{Start: time.Now().UTC(), ExitCode: -1}
	finish := func(output string) HealthResult {
		result.End, result.Output = time.Now().UTC(), output
		return result
	}
	command := check.Test[1:]
	if check.Test[0] == "CMD-SHELL" {
		command = append([]string{"/bin/sh", "-c"}, command...)
		if shell := c.Settings.Config.Shell; len(shell) > 0 {
			command = append(append([]string{}, shell...), check.Test[1:]...)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return finish(err.Error())
	}
	defer r.Close()
	output := make(chan string, 1)
	go func() {
		var kept bytes.Buffer
		_, _ = io.CopyN(&kept, r, healthOutput)
		_, _ = io.Copy(io.Discard, r)
		output <- kept.String()
	}()
	limited, cancel := context.WithTimeoutCause(ctx, check.Timeout, errors.New("health check exceeded timeout ("+check.Timeout.String()+")"))
	defer cancel()
	status, err := e.execIn(limited, c, ExecOptions{Command: command, Streams: Streams{Stdout: w, Stderr: w}})
	_ = w.Close()
	if limited.Err() != nil {
		return finish(context.Cause(limited).Error())
	}
	if err != nil {
		return finish(err.Error())
	}
	result.ExitCode = status
	return finish(<-output)
}
