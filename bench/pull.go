package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// registryFigure measures pulls and pushes with a registry on the loopback interface.
func registryFigure(ctx context.Context, lab *Lab) (all []Row, err error) {
	reg, err := lab.startRegistry(ctx)
	if err != nil {
		return nil, err
	}
	defer reg.stop()
	blob, err := lab.publish(ctx, reg)
	if err != nil {
		return nil, err
	}
	for _, part := range []func(context.Context, *Lab, *registry, string) ([]Row, error){pullRows, dockerRows, pushRows, unchangedRows} {
		got, err := part(ctx, lab, reg, blob)
		if err != nil {
			return nil, err
		}
		all = append(all, got...)
	}
	return all, nil
}

// emptied removes directories below the lab, and lets the disk settle.
func (l *Lab) emptied(names ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, name := range names {
			if err := os.RemoveAll(l.path(name)); err != nil {
				return err
			}
		}
		return settle(ctx)
	}
}

// pull is tarn pulling into an empty store.
func (l *Lab) pull(name, image string) Side {
	s := l.newStore("pulled")
	return Side{
		Name: name, Prepare: l.emptied("pulled"),
		Measure: func(ctx context.Context) (float64, error) {
			return timed(func() error { return l.tarnRun(ctx, s, "pull", "--quiet", image) })
		},
	}
}

func pullRows(ctx context.Context, lab *Lab, reg *registry, blob string) ([]Row, error) {
	gzip, zstd, ten := reg.host+"/one:gzip", reg.host+"/one:zstd", reg.host+"/ten:gzip"
	const inflate = `set -o pipefail; curl -sf "$1" | gzip -dc >/dev/null`
	curl := Side{Name: "curl | gzip -dc > /dev/null", Prepare: settle, Measure: func(ctx context.Context) (float64, error) {
		return timed(func() error {
			return command(ctx, "bash", "-c", inflate, "bash", "http://"+reg.host+"/v2/one/blobs/"+blob)
		})
	}}
	podman := func(image string) Side {
		return Side{Name: "podman pull", Prepare: lab.emptyPodman, Measure: func(ctx context.Context) (float64, error) {
			args := lab.podman("pull", "--quiet", "--tls-verify=false", image)
			return timed(func() error { return command(ctx, args[0], args[1:]...) })
		}}
	}
	got, err := rows(ctx, lab,
		Comparison{Work: "pull one gzip layer to runnable", Unit: Seconds, Bar: 1.0, Runs: 5, A: lab.pull("tarn pull", gzip), B: curl},
		Comparison{Work: "pull one gzip layer", Unit: Seconds, Bar: 0.25, Runs: 2, A: lab.pull("tarn pull", gzip), B: podman(gzip)},
		Comparison{Work: "pull ten gzip layers", Unit: Seconds, Bar: 0.25, Runs: 2, A: lab.pull("tarn pull", ten), B: podman(ten)},
		Comparison{Work: "pull one zstd layer", Unit: Seconds, Bar: 0.4, Runs: 7, A: lab.pull("zstd", zstd), B: lab.pull("gzip", gzip)},
		Limit{Work: "memory while pulling one zstd layer", Unit: Bytes, Bar: 100e6, Runs: 3, Side: lab.pullMemory(zstd)},
		Limit{Work: "memory while pulling ten gzip layers", Unit: Bytes, Bar: 100e6, Runs: 3, Side: lab.pullMemory(ten)},
		Limit{Work: "memory while pulling ten zstd layers", Unit: Bytes, Bar: 100e6, Runs: 3, Side: lab.pullMemory(reg.host + "/ten:zstd")},
	)
	return got, errors.Join(err, lab.emptyPodman(ctx))
}

// emptyPodman has podman remove its store itself: it mounts what it has.
func (l *Lab) emptyPodman(ctx context.Context) error {
	args := l.podman("rmi", "--all", "--force")
	if err := command(ctx, args[0], args[1:]...); err != nil {
		return err
	}
	return settle(ctx)
}

func (l *Lab) pullMemory(image string) Side {
	s := l.newStore("pulled")
	return Side{Name: "tarn pull", Prepare: l.emptied("pulled"), Measure: func(ctx context.Context) (float64, error) {
		return l.peakOf(ctx, s, "pull", "--quiet", image)
	}}
}

// peakOf runs a tarn command and gives the peak of its resident set, as the kernel tells it while the process lives:
// getrusage would count this one's, of which it is born.
func (l *Lab) peakOf(ctx context.Context, s store, args ...string) (float64, error) {
	cmd := exec.CommandContext(ctx, l.tarn, args...)
	cmd.Env = append(os.Environ(), s...)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak := 0.0
	for {
		if now, err := residentPeak(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err == nil {
			peak = max(peak, now)
		}
		select {
		case err := <-ended:
			return peak, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func dockerRows(ctx context.Context, lab *Lab, reg *registry, _ string) ([]Row, error) {
	docker, err := lab.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	defer docker.stop()
	image := reg.host + "/one:gzip"
	empty := func(ctx context.Context) error {
		return errors.Join(docker.run(ctx, "system", "prune", "--all", "--force"), settle(ctx))
	}
	return rows(ctx, lab, Comparison{
		Work: "pull one gzip layer", Unit: Seconds, Bar: 0.25, Runs: 2, A: lab.pull("tarn pull", image),
		B: Side{Name: "docker pull", Prepare: empty, Measure: func(ctx context.Context) (float64, error) {
			return timed(func() error { return docker.run(ctx, "pull", "--quiet", image) })
		}},
	})
}

// pushRows measures a push of an image whose one layer of 50 MB the registry has not seen before.
func pushRows(ctx context.Context, lab *Lab, reg *registry, _ string) ([]Row, error) {
	s := lab.newStore("pushed")
	n := 0
	fresh := func(importTar func(ctx context.Context, tarPath string) error) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			path := lab.path("changed.tar")
			if err := cutTar(path, lab.tar, 50e6, fmt.Sprint(n)); err != nil {
				return err
			}
			return errors.Join(importTar(ctx, path), settle(ctx))
		}
	}
	podman := func(args ...string) error {
		all := lab.podman(args...)
		return command(ctx, all[0], all[1:]...)
	}
	got, err := rows(ctx, lab, Comparison{
		Work: "push a changed layer of 50 MB", Unit: Seconds, Bar: 0.4, Runs: 7,
		A: Side{
			Name: "tarn push",
			Prepare: fresh(func(ctx context.Context, path string) error {
				return lab.tarnRun(ctx, s, "import", "--name", "changed", path)
			}),
			Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error { return lab.tarnRun(ctx, s, "push", "--quiet", "changed", reg.host+"/changed:tarn") })
			},
		},
		B: Side{
			Name: "podman push",
			Prepare: fresh(func(_ context.Context, path string) error {
				return podman("import", "--quiet", path, "localhost/changed")
			}),
			Measure: func(context.Context) (float64, error) {
				return timed(func() error {
					return podman("push", "--quiet", "--tls-verify=false", "localhost/changed", reg.host+"/changed:podman")
				})
			},
		},
	})
	return got, errors.Join(err, lab.emptyPodman(ctx))
}

func unchangedRows(ctx context.Context, lab *Lab, reg *registry, _ string) ([]Row, error) {
	s := lab.newStore("kept")
	image := reg.host + "/one:zstd"
	if err := lab.tarnRun(ctx, s, "pull", "--quiet", image); err != nil {
		return nil, err
	}
	return rows(ctx, lab, Limit{
		Work: "pull when nothing changed", Unit: Seconds, Bar: 0.03, Runs: 15,
		Side: Side{Name: "tarn pull", Measure: func(ctx context.Context) (float64, error) {
			return timed(func() error { return lab.tarnRun(ctx, s, "pull", "--quiet", image) })
		}},
	})
}

// cutTar copies the beginning of a tar, some bytes of contents, and a file that makes it another tar.
func cutTar(path, from string, size int64, mark string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	// First, so that nothing of what is compressed is as it was.
	err = w.WriteHeader(&tar.Header{Name: "mark", Mode: 0o644, Size: int64(len(mark))})
	if err == nil {
		_, err = io.WriteString(w, mark)
	}
	if err == nil {
		err = copyEntries(w, tar.NewReader(in), size)
	}
	return errors.Join(err, w.Close(), out.Close())
}

// copyEntries copies entries until their contents have size bytes, or there are no more.
func copyEntries(w *tar.Writer, r *tar.Reader, size int64) error {
	for size > 0 {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		n, err := io.Copy(w, r)
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// splitArchive writes a docker-archive of an image whose layers share the entries of a tar.
func splitArchive(path, from, name string, layers int) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w, r := &archiveWriter{tar: tar.NewWriter(out)}, tar.NewReader(in)
	for n := range layers {
		size := info.Size() / int64(layers)
		if n == layers-1 {
			size = info.Size()
		}
		var layer bytes.Buffer
		tw := tar.NewWriter(&layer)
		if err := copyEntries(tw, r, size); err != nil {
			return errors.Join(err, out.Close())
		}
		if err := errors.Join(tw.Close(), w.layer(filepath.Join(fmt.Sprint(n), "layer.tar"), layer.Bytes())); err != nil {
			return errors.Join(err, out.Close())
		}
	}
	return errors.Join(w.finish(name), out.Close())
}
