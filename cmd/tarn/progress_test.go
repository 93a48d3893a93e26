package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
)

// shownOn gives a progress that draws on a terminal of this size, into a buffer.
func shownOn(cols, rows uint16) (*progress, *bytes.Buffer) {
	var out bytes.Buffer
	return &progress{
		out: &out, byBlob: make(map[image.Digest]*transfer), stop: make(chan struct{}),
		size: func() (uint16, uint16, error) { return cols, rows, nil },
	}, &out
}

func blob(n byte) image.Digest { return image.DigestBytes([]byte{n}) }

func TestProgressOnATerminal(t *testing.T) {
	p, out := shownOn(100, 24)
	a, b := blob(1), blob(2)
	p.report(engine.Transfer{Blob: a, State: engine.Waiting, Total: 100e6})
	p.report(engine.Transfer{Blob: b, State: engine.Exists, Done: 50e6, Total: 50e6})
	p.report(engine.Transfer{Blob: a, State: engine.Running, Total: 100e6})
	start := p.byBlob[a].rate.when
	p.report(engine.Transfer{Blob: a, State: engine.Running, Done: 25e6, Total: 100e6})
	lines := p.picture(start.Add(time.Second), 100, 23)
	require.Len(t, lines, 3)
	require.Regexp(t, `^[0-9a-f]{12}  \[=+> +\]  25MB/100MB  25MB/s  3s$`, lines[0])
	require.Contains(t, lines[1], "Already exists")
	require.Regexp(t, `^all +\[=+> +\]  75MB/150MB  25MB/s  3s$`, lines[2])
	for _, line := range lines {
		require.Less(t, len(line), 100, "a line that wraps would ruin the picture")
	}
	p.draw(start.Add(time.Second))
	p.draw(start.Add(2 * time.Second))
	require.Equal(t, 1, strings.Count(out.String(), "\x1b[3A"), "the second picture covers the first")
	p.report(engine.Transfer{Blob: a, State: engine.Completed, Done: 100e6, Total: 100e6})
	require.Contains(t, p.picture(start.Add(3*time.Second), 100, 23)[0], "Pull complete")
}

func TestProgressOfNoBlob(t *testing.T) {
	p, _ := shownOn(100, 24)
	p.label, p.completed = "Reclaiming", "Done"
	p.report(engine.Transfer{State: engine.Running, Done: 25e6, Total: 100e6})
	start := p.byBlob[""].rate.when
	require.Regexp(t, `^Reclaiming    \[=+> +\]  25MB/100MB$`, p.picture(start, 100, 23)[0])
	p.report(engine.Transfer{State: engine.Completed, Done: 100e6, Total: 100e6})
	require.Equal(t, []string{"Reclaiming    Done"}, p.picture(start, 100, 23))
}

func TestProgressOnASmallTerminal(t *testing.T) {
	p, _ := shownOn(20, 5)
	for n := range byte(40) {
		p.report(engine.Transfer{Blob: blob(n), State: engine.Running, Done: 1e6, Total: 1e9})
	}
	lines := p.picture(time.Now().Add(time.Second), 20, 4)
	require.LessOrEqual(t, len(lines), 4)
	for _, line := range lines {
		require.Less(t, len(line), 20)
	}
}

func TestProgressElsewhere(t *testing.T) {
	p, out := shownOn(0, 0)
	p.size = nil
	a := blob(1)
	for done := int64(0); done <= 10; done++ {
		p.report(engine.Transfer{Blob: a, State: engine.Running, Done: 3 + done, Total: 1000, Resumed: 3})
	}
	p.report(engine.Transfer{Blob: a, State: engine.Completed, Done: 1000, Total: 1000})
	p.report(engine.Transfer{Blob: blob(2), State: engine.Mounted, From: "team/app"})
	require.Equal(t, a.Short()+": Resuming at 3B of 1kB\n"+a.Short()+": Pull complete\n"+blob(2).Short()+": Mounted from team/app\n",
		out.String(), "no line for each step")
}
