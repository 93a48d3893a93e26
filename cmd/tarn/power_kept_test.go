package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
)

// A worker keeps one container and one volume, which come and go. What is in them is known as far as a program in the
// container has asked the disk for it.

// keptFile is what the container writes, once, to its own layer and to the volume.
const keptFile = "own"

// keptScript writes word, and returns when the disk has it.
func keptScript(word string) string {
	return "for f in /" + keptFile + " /v/" + keptFile + "; do test -s $f || echo " + word + " | dd of=$f conv=fsync; done"
}

// keep makes, starts, or removes what the worker keeps.
func (w *worker) keep() error {
	container, volume := fmt.Sprintf("kept%d", w.id), fmt.Sprintf("vol%d", w.id)
	w.mu.Lock()
	was, hasVolume := w.containers[container].certain, w.volumes[volume].certain != nil
	w.mu.Unlock()
	switch chance := w.r.IntN(3); {
	case was != nil && chance == 0:
		return w.during([]change{{w.containers, container, nil}}, func() error { return w.tarn(nil, "rm", container) })
	case was != nil:
		return w.during(w.wrote(container, volume), func() error { return w.tarn(nil, "start", "--attach", container) })
	case hasVolume && chance == 0:
		return w.during([]change{{w.volumes, volume, nil}}, func() error { return w.tarn(nil, "volume", "rm", volume) })
	}
	image, _ := w.some()
	if image == "" {
		return nil
	}
	if !hasVolume {
		w.made++
		word := fmt.Sprintf("kept-%d-%d\n", w.id, w.made)
		w.word = tree{keptFile: sha256.Sum256([]byte(word))}
		w.script = keptScript(word[:len(word)-1])
		err := w.during([]change{{w.volumes, volume, tree{}}}, func() error { return w.tarn(nil, "volume", "create", volume) })
		if err != nil {
			return err
		}
	}
	args := []string{"--network", "none", "--name", container, "--volume", volume + ":/v", image, "sh", "-euc", w.script}
	if w.r.IntN(2) == 0 {
		return w.during([]change{{w.containers, container, tree{}}}, func() error { return w.tarn(nil, append([]string{"create"}, args...)...) })
	}
	return w.during(w.wrote(container, volume), func() error { return w.tarn(nil, append([]string{"run"}, args...)...) })
}

// wrote is what the container makes of itself and the volume.
func (w *worker) wrote(container, volume string) []change {
	return []change{{w.containers, container, w.word}, {w.volumes, volume, w.word}}
}

// verifyContainers: those that were made are listed, do not run, have what they wrote and synced, and can be started;
// those that were removed are gone.
func (c powerCut) verifyContainers(t *testing.T, e *engine.Engine, root, run string) {
	t.Helper()
	list, err := e.Containers(t.Context(), engine.ContainerFilter{All: true})
	require.NoError(t, err, c.fate)
	there := make(map[string]*engine.Container)
	for _, container := range list {
		there[container.Name] = container
		require.Contains(t, []string{engine.StatusCreated, engine.StatusExited}, container.Status(), "%s: %s", container.Name, c.fate)
	}
	for name, f := range c.containers {
		if f.busy {
			continue
		}
		require.Equal(t, f.certain != nil, there[name] != nil, "%s: %s", name, c.fate)
		if f.certain == nil {
			continue
		}
		if want, wrote := f.certain[keptFile]; wrote {
			require.Equal(t, want, c.shown(t, e, name)[keptFile], "%s: %s", name, c.fate)
		}
		output(t, tarn(t, root, run, "start", "--attach", name))
	}
}

// verifyVolumes: those that were made are there with what was written and synced, others are not.
func (c powerCut) verifyVolumes(t *testing.T, e *engine.Engine) {
	t.Helper()
	list, err := e.Volumes(t.Context(), engine.VolumeFilter{})
	require.NoError(t, err, c.fate)
	there := make(map[string]*engine.Volume)
	for _, volume := range list {
		require.NoError(t, volume.Damaged, "%s: %s", volume.Name, c.fate)
		there[volume.Name] = volume
	}
	for name, f := range c.volumes {
		if f.busy {
			continue
		}
		require.Equal(t, f.certain != nil, there[name] != nil, "%s: %s", name, c.fate)
		if f.certain != nil {
			got := treeOf(t, there[name].Path)
			require.True(t, maps.Equal(f.certain, got), "%s is %v, want %v: %s", name, got, f.certain, c.fate)
		}
	}
}

// treeOf reads all files below a directory.
func treeOf(t *testing.T, dir string) tree {
	t.Helper()
	got := make(tree)
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		got[path] = sha256.Sum256(data)
		return err
	}))
	return got
}
