package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/layer"
)

// indexCost is what indexChild reports of itself.
type indexCost struct {
	Seconds float64 // to read the tar and write the index
	Peak    float64 // bytes of memory, at most
}

// indexFigure measures making a tar mountable, apart from storing it, with the tar in the page cache.
func indexFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	const times = 4
	grown := lab.path("grown.tar")
	if _, err := lab.child(ctx, "child-grow", lab.tar, grown, strconv.Itoa(times)); err != nil {
		return nil, err
	}
	side := func(name, tarPath string, value func(indexCost) float64) Side {
		return Side{
			Name:    name,
			Prepare: func(ctx context.Context) error { return command(ctx, "cat", tarPath) },
			Measure: func(ctx context.Context) (float64, error) {
				out, err := lab.child(ctx, "child-index", tarPath, lab.path("index"))
				if err != nil {
					return 0, err
				}
				var cost indexCost
				err = json.Unmarshal([]byte(out), &cost)
				return value(cost), err
			},
		}
	}
	seconds := func(c indexCost) float64 { return c.Seconds }
	peak := func(c indexCost) float64 { return c.Peak }
	all, err := rows(ctx, lab,
		Limit{Work: "index a Debian tar: time", Unit: Seconds, Bar: 0.15, Runs: 15, Side: side("tarn", lab.tar, seconds)},
		Limit{Work: "index a Debian tar: memory", Unit: Bytes, Bar: 64e6, Runs: 5, Side: side("tarn", lab.tar, peak)},
		Comparison{
			Work: fmt.Sprintf("index: memory with contents %d times as large", times), Unit: Bytes, Bar: 1.1, Runs: 5,
			A: side("large", grown, peak), B: side("as it is", lab.tar, peak),
		})
	return all, errors.Join(err, os.Remove(grown))
}

// indexChild writes the index of a tar. Arguments: TAR INDEX.
func indexChild(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: child-index TAR INDEX")
	}
	seconds, err := timed(func() error { return writeIndex(args[0], args[1]) })
	if err != nil {
		return err
	}
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(indexCost{seconds, peak})
}

func writeIndex(tarPath, indexPath string) error {
	file, err := os.Open(tarPath)
	if err != nil {
		return err
	}
	in, err := holes.Plain(file)
	if err != nil {
		return err
	}
	defer in.Close()
	tree, err := layer.Scan(in, layer.Limits{})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(indexPath, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = tree.WriteIndex(out, in)
	return err
}

// peakMemory is the largest resident set this process has had, in bytes. It is read from
// proc(5) status: getrusage would count the parent's memory before exec, too.
func peakMemory() (float64, error) { return residentPeak("/proc/self/status") }

func residentPeak(path string) (float64, error) {
	status, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			return float64(n) * 1024, err
		}
	}
	return 0, errors.New("no VmHWM in " + path)
}

// growChild copies a tar, repeating the contents of every file. Arguments: TAR GROWN TIMES.
func growChild(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: child-grow TAR GROWN TIMES")
	}
	times, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	in, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(args[1], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := grow(out, in, times); err != nil {
		return errors.Join(err, out.Close())
	}
	return out.Close()
}

func grow(w io.Writer, r io.Reader, times int) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		h.Size *= int64(times)
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		for range times {
			if _, err := out.Write(content); err != nil {
				return err
			}
		}
	}
}
