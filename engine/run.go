package engine

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/tarnfs/tarn/container"
)

// RunOptions says what container to run, and with what.
type RunOptions struct {
	CreateOptions

	Detach     bool   // leave it to itself
	SigProxy   bool   // it gets the signals that this process gets
	DetachKeys string // to leave a terminal, see [ParseDetachKeys]

	// Stdin is what the container reads if it is Interactive.
	Stdin, Stdout, Stderr *os.File

	// Created is called when the container is there, with its ID; nil for nothing.
	Created func(id string)

	// Reserved is what Reserve has given, or nil. Run uses it up.
	Reserved *Reservation
}

// Reserve readies a thread for a container to be run, while it is being found out which.
func Reserve() *Reservation { return container.Reserve() }

// Reservation is a thread that waits for a container.
type Reservation = container.Container

// Run runs a container to its end and gives its exit status: that of its first process, or 128 and
// the number of the signal that ended it. With an error, the status is what tells why there is
// none of the container's: see [ExitStatus].
//
// A container that is detached, or that has a terminal, runs on its own, with a monitor: [ErrDetached] tells
// of one that was left. Any other ends with this process, whatever kills it.
func (e *Engine) Run(ctx context.Context, opts RunOptions) (status int, err error) {
	if opts.Detach || opts.Terminal {
		return e.runInBackground(ctx, opts)
	}
	streams := &attachment{
		Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr,
		interactive: opts.Interactive, terminal: opts.Terminal, sigProxy: opts.SigProxy,
	}
	defer streams.stop()
	reserved := opts.Reserved
	if reserved == nil {
		reserved = Reserve()
	}
	defer func() { err = errors.Join(err, reserved.Close()) }()
	d, err := e.newCreation(ctx, &opts.CreateOptions)
	if err != nil {
		return 0, err
	}
	l, err := e.newLaunch(ctx, reserved, d.id, d.hostname, &d.host)
	if err != nil {
		return 0, err
	}
	defer l.close()
	if d.owner, err = identifySelf(); err != nil {
		return 0, err
	}
	l.Container, err = e.create(ctx, d, func(c *Container) error { return l.complete(e.Store.ContainerDir(d.id), c) })
	if err == nil {
		err = d.writeID()
	}
	if err != nil {
		return 0, err
	}
	if streams.log, err = l.openLog(); err != nil {
		return 0, err
	}
	process, lock, err := e.start(ctx, l, streams)
	// The container is to be cleaned up even if this is interrupted.
	cleanup := context.WithoutCancel(ctx)
	if err != nil {
		state := ContainerState{Status: StatusCreated, ExitCode: container.ExitCode(err), Error: err.Error()}
		return 0, errors.Join(err, e.finish(cleanup, l.Container, state))
	}
	// The container does not wait for its record, nor, if it is short, the record for its end.
	recorded := make(chan error, 1)
	go func() {
		err := l.recordStart(process, lock)
		l.close()
		recorded <- errors.Join(err, e.record(l.event("create"), l.event("start")))
	}()
	status, err = streams.serve(ctx, process)
	unwired := make(chan error, 1)
	go func() { unwired <- l.unwire() }()
	err = errors.Join(err, <-recorded)
	state := l.State
	state.Status, state.Process, state.Owner, state.ExitCode, state.FinishedAt = StatusExited, processID{}, processID{}, status, time.Now().UTC()
	return status, errors.Join(err, e.finish(cleanup, l.Container, state), <-unwired)
}

// runInBackground runs a container with a monitor.
func (e *Engine) runInBackground(ctx context.Context, opts RunOptions) (status int, err error) {
	if opts.Reserved != nil {
		if err := opts.Reserved.Close(); err != nil {
			return 0, err
		}
	}
	start := StartOptions{
		Attach: !opts.Detach,
		Streams: Streams{
			Input: opts.Interactive, SigProxy: opts.SigProxy, DetachKeys: opts.DetachKeys,
			Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr,
		},
	}
	if _, err := ParseDetachKeys(opts.DetachKeys); err != nil {
		return 0, err
	}
	if start.Attach && opts.Interactive && !isTerminal(opts.Stdin) {
		return 0, errNotTerminal
	}
	d, err := e.newCreation(ctx, &opts.CreateOptions)
	if err != nil {
		return 0, err
	}
	if d.owner, err = identifySelf(); err != nil {
		return 0, err
	}
	c, err := e.create(ctx, d, nil)
	if err == nil {
		err = errors.Join(d.writeID(), e.emit(c, "create"))
	}
	if err != nil {
		return 0, err
	}
	status, err = e.startNew(ctx, c, start)
	if opts.Created != nil && (err == nil || errors.Is(err, ErrDetached)) {
		opts.Created(c.ID)
	}
	return status, err
}

// ExitStatus gives the exit status that stands for an error of Run, as Docker has it: 127 if the
// program was not found, 126 if it cannot be executed, otherwise 125.
func ExitStatus(err error) int { return container.ExitCode(err) }

// finish records how a container ended, or removes it.
func (e *Engine) finish(ctx context.Context, c *Container, state ContainerState) (err error) {
	lock, err := c.lockPresent(ctx, c.Name)
	if errors.Is(err, ErrNoContainer) {
		return nil // removed by someone else, who ended it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	c.State = state
	if c.Settings.Host.AutoRemove {
		return errors.Join(e.discard(ctx, c), e.record(c.died(), c.event("destroy")))
	}
	return errors.Join(c.WriteState(state), e.emitDie(c))
}
