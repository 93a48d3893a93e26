package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/internal/sys"
)

// Event is something that has happened, in the form of Docker's API.
type Event struct {
	Status   string `json:"status,omitempty"` // of containers: what Action says
	ID       string `json:"id,omitempty"`
	From     string `json:"from,omitempty"` // of containers: the image's name
	Type     string
	Action   string
	Actor    EventActor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"` // seconds since 1970
	TimeNano int64  `json:"timeNano"`
}

// EventActor is whom an event is about.
type EventActor struct {
	ID         string
	Attributes map[string]string
}

// maxEvents bounds the file of events in bytes. When it is larger, it becomes the older one of two.
const maxEvents = 1 << 20

func (e *Engine) eventsPath() string { return filepath.Join(e.Store.Run(), "events") }

// emit records that something has happened to a container. attributes are names and values in turn.
func (e *Engine) emit(c *Container, action string, attributes ...string) error {
	return e.record(c.event(action, attributes...))
}

func (c *Container) event(action string, attributes ...string) Event {
	actor := EventActor{ID: c.ID, Attributes: map[string]string{"name": c.Name, "image": c.ImageName}}
	maps.Copy(actor.Attributes, c.Settings.Config.Labels)
	for i := 0; i+1 < len(attributes); i += 2 {
		actor.Attributes[attributes[i]] = attributes[i+1]
	}
	return Event{Status: action, ID: c.ID, From: c.ImageName, Type: "container", Action: action, Actor: actor}
}

// record appends events to the file of events. Who appends holds a shared lock on the file; who makes it
// the older one an exclusive one, so that nobody appends to that any more.
func (e *Engine) record(events ...Event) error {
	var lines []byte
	for _, event := range events {
		now := time.Now()
		event.Scope, event.Time, event.TimeNano = "local", now.Unix(), now.UnixNano()
		line, err := json.Marshal(event)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	for {
		f, err := os.OpenFile(e.eventsPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if errors.Is(err, fs.ErrNotExist) { // nothing was run since the machine's start
			if err := os.MkdirAll(e.Store.Run(), 0o700); err != nil {
				return fmt.Errorf("events: %w", err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		done, err := e.append(f, lines)
		if err = errors.Join(err, f.Close()); done || err != nil {
			return err
		}
	}
}

// append appends lines, if f is still the newer file.
func (e *Engine) append(f *os.File, lines []byte) (done bool, err error) {
	if err := sys.WaitFlock(f, false); err != nil {
		return false, err
	}
	is, err := isAt(f, e.eventsPath())
	if err != nil || !is {
		return false, err
	}
	if _, err := f.Write(lines); err != nil {
		return false, fmt.Errorf("events: %w", err)
	}
	info, err := f.Stat()
	if err != nil || info.Size() < maxEvents {
		return true, err
	}
	// Without the shared lock, since of two that want the other kind neither would get it.
	if err := errors.Join(sys.Unlock(f), sys.WaitFlock(f, true)); err != nil {
		return true, err
	}
	if is, err := isAt(f, e.eventsPath()); err != nil || !is {
		return true, err
	}
	return true, os.Rename(e.eventsPath(), e.eventsPath()+".1")
}

// isAt tells whether f is the file at path.
func isAt(f *os.File, path string) (bool, error) {
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(info, there), err
}

// EventOptions selects events. Values of one key of Filters are alternatives; keys must all hold.
type EventOptions struct {
	Since, Until time.Time // zero: from now on; without end
	Filters      map[string][]string
}

// ParseEventFilters reads "key=value" options, with Docker's keys.
func ParseEventFilters(options []string) (map[string][]string, error) {
	filters := make(map[string][]string)
	return filters, eachFilter(options, func(key, value string) error {
		if !slices.Contains([]string{"container", "event", "image", "label", "type", "volume", "network"}, key) {
			return fmt.Errorf("%w: use container, event, image, label, type, volume or network", ErrOption)
		}
		filters[key] = append(filters[key], value)
		return nil
	})
}

// Events gives events to do, in their order, until opts.Until or the end of ctx, which is no error.
func (e *Engine) Events(ctx context.Context, opts EventOptions, do func(Event) error) error {
	f, err := e.followEvents()
	if err != nil {
		return err
	}
	defer f.close()
	if opts.Since.IsZero() {
		opts.Since = time.Now()
	} else if err := f.rewind(); err != nil {
		return err
	}
	if !opts.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, opts.Until)
		defer cancel()
	}
	for {
		event, err := f.next(ctx)
		if err != nil && (ctx.Err() != nil || errors.Is(err, io.EOF)) {
			return nil
		}
		if err != nil {
			return err
		}
		at := time.Unix(0, event.TimeNano)
		if !opts.Until.IsZero() && at.After(opts.Until) {
			return nil
		}
		if at.Before(opts.Since) || !opts.selects(&event) {
			continue
		}
		if err := do(event); err != nil {
			return err
		}
	}
}

func (o *EventOptions) selects(event *Event) bool {
	for key, values := range o.Filters {
		if !slices.ContainsFunc(values, func(value string) bool { return event.has(key, value) }) {
			return false
		}
	}
	return true
}

func (e *Event) has(key, value string) bool {
	attributes := e.Actor.Attributes
	switch key {
	case "type":
		return e.Type == value
	case "event":
		// "health_status" stands for all of "health_status: healthy" and so on.
		action, _, _ := strings.Cut(e.Action, ":")
		return e.Action == value || action == value
	case "label":
		name, want, valued := strings.Cut(value, "=")
		got, found := attributes[name]
		return found && (!valued || got == want)
	case "image":
		return e.From == value || e.Type == "image" && (e.Actor.ID == value || attributes["name"] == value)
	default:
		return e.Type == key && (strings.HasPrefix(e.Actor.ID, value) || attributes["name"] == value)
	}
}

// eventReader reads the events as they are written.
type eventReader struct {
	e       *Engine
	watch   *sys.Watch
	file    *os.File
	pending []byte
	older   []*os.File // to be read before
}

// followEvents begins to read behind the last event.
func (e *Engine) followEvents() (*eventReader, error) {
	if err := os.MkdirAll(e.Store.Run(), 0o700); err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	watch, err := sys.WatchDir(e.Store.Run())
	if err != nil {
		return nil, err
	}
	r := &eventReader{e: e, watch: watch}
	if err := r.open(); err != nil {
		watch.Close()
		return nil, err
	}
	if r.file != nil {
		if _, err := r.file.Seek(0, io.SeekEnd); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// open opens the newer file, if it is there yet.
func (r *eventReader) open() (err error) {
	r.file, err = os.Open(r.e.eventsPath())
	if errors.Is(err, fs.ErrNotExist) {
		r.file, err = nil, nil
	}
	return err
}

// rewind goes back to the oldest event that is known.
func (r *eventReader) rewind() error {
	if r.file != nil {
		if _, err := r.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	older, err := os.Open(r.e.eventsPath() + ".1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.older = append(r.older, older)
	}
	return err
}

func (r *eventReader) close() {
	r.watch.Close()
	for _, f := range append(r.older, r.file) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// next waits for the next event.
func (r *eventReader) next(ctx context.Context) (event Event, err error) {
	for {
		line, rest, found := bytes.Cut(r.pending, []byte("\n"))
		if found {
			r.pending = rest
			if err := json.Unmarshal(line, &event); err != nil {
				continue // a line that a full disk has cut short
			}
			return event, nil
		}
		more, err := r.read()
		if err != nil {
			return event, err
		}
		if more {
			continue
		}
		if err := r.watch.Wait(ctx); err != nil {
			return event, err
		}
	}
}

// read reads more, and tells whether there was something, or another file is to be read now.
func (r *eventReader) read() (bool, error) {
	buf := make([]byte, 64<<10)
	if len(r.older) > 0 {
		n, err := r.older[0].Read(buf)
		r.pending = append(r.pending, buf[:n]...)
		if errors.Is(err, io.EOF) {
			_ = r.older[0].Close()
			r.older, err = r.older[1:], nil
		}
		return true, err
	}
	if r.file == nil {
		err := r.open()
		return r.file != nil, err
	}
	// Asked before the end is seen: what is not there any more is not appended to.
	newest, err := isAt(r.file, r.e.eventsPath())
	if err != nil {
		return false, err
	}
	n, err := r.file.Read(buf)
	r.pending = append(r.pending, buf[:n]...)
	if n > 0 {
		return true, nil
	}
	if !errors.Is(err, io.EOF) {
		return false, err
	}
	if newest {
		return false, nil
	}
	_ = r.file.Close()
	r.file, r.pending = nil, nil
	return true, nil
}
