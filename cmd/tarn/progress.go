package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/format"
	"github.com/tarnfs/tarn/internal/sys"
)

// progress shows transfers: on a terminal a bar for each that runs and one for all of them, drawn
// again ten times a second; elsewhere a line when something has come to its end.
type progress struct {
	out  io.Writer
	size func() (cols, rows uint16, err error) // of the terminal; nil if it is none
	push bool
	// completed is what is said of a transfer that has come to its end, if that is no "Pull complete".
	completed string
	label     string // of a transfer of no blob

	begin func() // looks what out is, once

	mu        sync.Mutex
	transfers []*transfer
	byBlob    map[image.Digest]*transfer
	drawn     int // lines of the last picture
	stop      chan struct{}
	stopped   sync.WaitGroup
}

// transfer is one blob, and how fast it goes.
type transfer struct {
	engine.Transfer
	rate rate
}

const redraw = 100 * time.Millisecond

// newProgress shows transfers on f. Call close at the end.
func newProgress(f *os.File, quiet, push bool) *progress {
	p := &progress{out: f, push: push, byBlob: make(map[image.Digest]*transfer), stop: make(chan struct{})}
	if quiet {
		p.out = io.Discard
		return p
	}
	p.begin = func() {
		if _, _, err := sys.TerminalSize(f); err == nil {
			p.size = func() (cols, rows uint16, err error) { return sys.TerminalSize(f) }
			p.stopped.Go(p.animate)
		}
	}
	return p
}

func (p *progress) animate() {
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			p.mu.Lock()
			p.draw(now)
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

// close leaves the last state on the terminal.
func (p *progress) close() {
	close(p.stop)
	p.stopped.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(time.Now())
}

// report takes in how a transfer stands.
func (p *progress) report(t engine.Transfer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.byBlob[t.Blob]
	if p.begin != nil { // with the first transfer, since most commands have none
		p.begin()
		p.begin = nil
	}
	changed := known == nil || known.State != t.State
	if known == nil {
		known = &transfer{Transfer: t}
		known.rate.start(t.Done, time.Now())
		p.byBlob[t.Blob] = known
		p.transfers = append(p.transfers, known)
	}
	if changed && t.State == engine.Running {
		known.rate.start(t.Done, time.Now())
	}
	known.Transfer = t
	if p.size == nil && changed {
		if text := p.event(t); text != "" {
			fmt.Fprintf(p.out, "%s: %s\n", t.Blob.Short(), text)
		}
	}
}

// event puts a change of state in words, Docker's where it has some.
func (p *progress) event(t engine.Transfer) string {
	switch t.State {
	case engine.Running:
		if t.Resumed > 0 {
			return fmt.Sprintf("Resuming at %s of %s", format.Size(t.Resumed), format.Size(t.Total))
		}
		if p.push {
			return "Pushing"
		}
		return "Downloading " + format.Size(t.Total)
	case engine.Completed:
		if p.push {
			return "Pushed"
		}
		return cmp.Or(p.completed, "Pull complete")
	case engine.Exists:
		if p.push {
			return "Layer already exists"
		}
		return "Already exists"
	case engine.Mounted:
		return "Mounted from " + t.From
	default:
		return ""
	}
}

// draw replaces the last picture on the terminal.
func (p *progress) draw(now time.Time) {
	if p.size == nil || len(p.transfers) == 0 {
		return
	}
	cols, rows, err := p.size()
	if err != nil || cols == 0 || rows == 0 {
		cols, rows = 80, 24
	}
	lines := p.picture(now, int(cols), int(rows)-1)
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, line := range lines {
		b.WriteString("\r\x1b[K" + line + "\n")
	}
	if p.drawn > len(lines) {
		b.WriteString("\x1b[J")
	}
	p.drawn = len(lines)
	_, _ = io.WriteString(p.out, b.String())
}

// picture gives the lines to show: a transfer each, and where there is more than one, the sum. If
// they are too many, those that are at an end or have not begun go.
func (p *progress) picture(now time.Time, cols, rows int) []string {
	var sum transfer
	var lines []string
	active := 0
	for _, t := range p.transfers {
		sum.Total += t.Total
		sum.Done += t.Done
		if t.State == engine.Running {
			sum.rate.perSecond += t.rate.at(t.Done, now)
			active++
		}
	}
	crowded := len(p.transfers)+1 > rows
	for _, t := range p.transfers {
		if !crowded || t.State == engine.Running || t.State == engine.Finishing {
			lines = append(lines, clipLine(fmt.Sprintf("%-12s  %s", p.name(t), p.status(t, now, cols-14)), cols))
		}
	}
	if len(lines) > rows-1 && rows > 1 {
		lines = lines[:rows-1]
	}
	if len(p.transfers) > 1 {
		line := fmt.Sprintf("%-12s  %s", "all", bar(sum.Transfer, sum.rate.perSecond, cols-14))
		lines = append(lines, clipLine(line, cols))
	}
	return lines
}

func (p *progress) name(t *transfer) string {
	if t.Blob == "" {
		return p.label
	}
	return t.Blob.Short()
}

func clipLine(line string, cols int) string {
	if len(line) >= cols {
		return line[:max(cols-1, 0)]
	}
	return line
}

func (p *progress) status(t *transfer, now time.Time, width int) string {
	switch t.State {
	case engine.Waiting:
		return "Waiting"
	case engine.Running:
		return bar(t.Transfer, t.rate.at(t.Done, now), width)
	case engine.Finishing:
		return "Writing to disk"
	default:
		return p.event(t.Transfer)
	}
}

// bar draws how much has been done, with the rate and the time that is left.
func bar(t engine.Transfer, perSecond float64, width int) string {
	text := fmt.Sprintf("%s/%s", format.Size(t.Done), format.Size(t.Total))
	if t.Total <= 0 {
		text = format.Size(t.Done)
	}
	if perSecond > 0 {
		text += fmt.Sprintf("  %s/s", format.Size(int64(perSecond)))
		if left := float64(t.Total-t.Done) / perSecond; left >= 1 {
			text += "  " + (time.Duration(left) * time.Second).String()
		}
	}
	const reserved = 40 // for the text, so that the bar does not change its length
	room := min(width-reserved, 50)
	if room < 10 || t.Total <= 0 {
		return text
	}
	full := int(int64(room) * min(t.Done, t.Total) / t.Total)
	arrow := ""
	if full > 0 && full < room {
		full, arrow = full-1, ">"
	}
	return "[" + strings.Repeat("=", full) + arrow + strings.Repeat(" ", room-full-len(arrow)) + "]  " + text
}

// rate is a speed, smoothed over a few seconds.
type rate struct {
	perSecond float64
	done      int64
	when      time.Time
}

func (r *rate) start(done int64, now time.Time) { *r = rate{done: done, when: now} }

// at gives the bytes per second up to now.
func (r *rate) at(done int64, now time.Time) float64 {
	const step = 500 * time.Millisecond
	elapsed := now.Sub(r.when)
	if elapsed < step {
		return r.perSecond
	}
	current := float64(done-r.done) / elapsed.Seconds()
	if r.perSecond == 0 {
		r.perSecond = current
	} else {
		r.perSecond = 0.7*r.perSecond + 0.3*current
	}
	r.done, r.when = done, now
	return r.perSecond
}
