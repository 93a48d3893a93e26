package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// runFigure measures a whole container, from the command to its end, against the fastest runtime
// with a root that lies ready.
func runFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	store, err := lab.debian(ctx)
	if err != nil {
		return nil, err
	}
	bundle, err := lab.bundle(ctx)
	if err != nil {
		return nil, err
	}
	if err := settle(ctx); err != nil { // the bundle's files are many, and a container writes to the disk
		return nil, err
	}
	tarn := lab.runTrue("tarn run --rm", store, "debian")
	tarn.Prepare = rest
	all, err := rows(ctx, lab, Comparison{
		Work: "run /bin/true with no network, after a rest (docs/adr/start-up.md)", Unit: Seconds, Bar: 0.6, Runs: 40,
		A: tarn,
		B: Side{Name: "crun run", Prepare: rest, Measure: func(ctx context.Context) (float64, error) {
			return timed(func() error { return command(ctx, "crun", "run", "--bundle", bundle, "tarn-bench") })
		}},
	})
	return all, errors.Join(err, os.RemoveAll(bundle))
}

// rest lets the kernel finish with the container before: it takes namespaces and cgroups apart after their
// processes' end, in the background, and would do the one side's work in the other's time. (Without
// it both are faster, crun more: docs/adr/start-up.md.)
func rest(context.Context) error {
	time.Sleep(100 * time.Millisecond)
	return nil
}

// runTrue is a container that does nothing.
func (l *Lab) runTrue(name string, s store, image string) Side {
	return Side{Name: name, Measure: func(ctx context.Context) (float64, error) {
		return timed(func() error { return l.tarnRun(ctx, s, "run", "--rm", "--network", "none", image, "/bin/true") })
	}}
}

// bundle makes an OCI bundle of the Debian root, with crun's own default configuration.
func (l *Lab) bundle(ctx context.Context) (string, error) {
	dir := l.path("bundle")
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	if err := command(ctx, "tar", "-x", "-f", l.tar, "-C", root); err != nil {
		return "", err
	}
	if err := command(ctx, "sh", "-c", `cd "$1" && crun spec`, "sh", dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return "", err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return "", errors.New("crun spec wrote no process")
	}
	process["args"], process["terminal"] = []string{"/bin/true"}, false
	if text, err = json.Marshal(config); err != nil {
		return "", err
	}
	return dir, os.WriteFile(path, text, 0o644)
}

// layersFigure measures what more layers cost a container's start, and that there is no end to
// them: option strings of the old mount API end at about 127.
func layersFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	store, err := lab.debian(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range []int{1, 100, 300} {
		archive := lab.path(fmt.Sprintf("layers-%d.tar", n))
		if err := writeArchive(archive, lab.tar, fmt.Sprintf("layers-%d", n), n); err != nil {
			return nil, err
		}
		if err := lab.tarnRun(ctx, store, "load", "--input", archive); err != nil {
			return nil, err
		}
		if err := os.Remove(archive); err != nil {
			return nil, err
		}
	}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	all, err := rows(ctx, lab, Comparison{
		Work: "run /bin/true again, 100 layers against 1", Unit: Seconds, Bar: 1.5, Runs: 30,
		A: lab.runTrue("100 layers", store, "layers-100"),
		B: lab.runTrue("1 layer", store, "layers-1"),
	})
	if err != nil {
		return nil, err
	}
	const test = "test -x /bin/true && cat /layers/1 /layers/299"
	out, err := lab.tarnOutput(ctx, store, "run", "--rm", "--network", "none", "layers-300", "/bin/sh", "-c", test)
	if err != nil {
		return nil, err
	}
	row := Row{Work: "a container over 300 layers", Measured: "all are seen", Bar: "works", Met: out == "1\n299"}
	if !row.Met {
		row.Measured = fmt.Sprintf("printed %q", out)
	}
	row.print("1 run")
	return append(all, row), nil
}

// writeArchive writes a docker-archive (the format of "docker save") of an image whose first layer
// is the tar at base; each of the others adds one file, /layers/N.
func writeArchive(path, base, name string, layers int) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := &archiveWriter{tar: tar.NewWriter(out)}
	if err := errors.Join(w.write(base, name, layers), out.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

type archiveWriter struct {
	tar     *tar.Writer
	names   []string // of the layers' entries
	diffIDs []string
}

func (w *archiveWriter) write(base, name string, layers int) error {
	if err := w.baseLayer(base); err != nil {
		return err
	}
	for n := 1; n < layers; n++ {
		if err := w.smallLayer(n); err != nil {
			return err
		}
	}
	return w.finish(name)
}

// finish writes config and manifest after the layers.
func (w *archiveWriter) finish(name string) error {
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": w.diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name + ":latest"}, "Layers": w.names}})
	if err != nil {
		return err
	}
	if err := errors.Join(w.file("config.json", config), w.file("manifest.json", manifest)); err != nil {
		return err
	}
	return w.tar.Close()
}

func (w *archiveWriter) baseLayer(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	const name = "base/layer.tar"
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w.tar, hash), in); err != nil {
		return err
	}
	w.names, w.diffIDs = append(w.names, name), append(w.diffIDs, fmt.Sprintf("sha256:%x", hash.Sum(nil)))
	return nil
}

func (w *archiveWriter) smallLayer(n int) error {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	content := fmt.Appendf(nil, "%d\n", n)
	if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("layers/%d", n), Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := tw.Write(content); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return w.layer(fmt.Sprintf("%d/layer.tar", n), layer.Bytes())
}

func (w *archiveWriter) layer(name string, content []byte) error {
	w.names, w.diffIDs = append(w.names, name), append(w.diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
	return w.file(name, content)
}

func (w *archiveWriter) file(name string, content []byte) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.tar.Write(content)
	return err
}
