package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// rootsBar is how much of the disk ten roots may take, as a multiple of their unique file contents.
const rootsBar = 1.15

// rootsFigure measures what ten Debian roots take on the disk that are unrelated as layers, and what
// finding out what they have in common costs a layer that has nothing in common with any.
func rootsFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	tars, err := filepath.Glob(filepath.Join(lab.cache, "debian-roots", "??.tar"))
	if err != nil {
		return nil, err
	}
	if len(tars) == 0 {
		return nil, errors.New("no Debian roots: scripts/debian-roots.sh makes them")
	}
	unique, err := uniqueContents(tars)
	if err != nil {
		return nil, err
	}
	ours, err := tarnDisk(ctx, lab, tars)
	if err != nil {
		return nil, err
	}
	podman, err := podmanDisk(ctx, lab, tars)
	if err != nil {
		return nil, err
	}
	docker, err := dockerDisk(ctx, lab, tars)
	if err != nil {
		return nil, err
	}
	row := Row{
		Work: fmt.Sprintf("%d Debian roots on the disk, of %s of unique file contents", len(tars), Bytes.format(unique)),
		Measured: fmt.Sprintf("tarn %s, podman %s (%.2f x), docker %s (%.2f x)",
			Bytes.format(ours), Bytes.format(podman), podman/unique, Bytes.format(docker), docker/unique),
		Ratio: fmt.Sprintf("%.3f", ours/unique),
		Bar:   fmt.Sprintf("<= %.2f x", rootsBar),
		Met:   ours <= rootsBar*unique,
	}
	row.print("once")
	memory, err := borrowMemory(ctx, lab, tars)
	return append([]Row{row}, memory...), err
}

// borrowMemory compares the peak of memory of an import that borrows from one layer with that of one that borrows from
// all the others.
func borrowMemory(ctx context.Context, lab *Lab, tars []string) ([]Row, error) {
	last := tars[len(tars)-1]
	side := func(name string, lenders []string) Side {
		s := lab.newStore("lenders")
		return Side{
			Name: name,
			Prepare: func(ctx context.Context) error {
				if err := os.RemoveAll(lab.path("lenders")); err != nil {
					return err
				}
				for _, path := range lenders {
					if err := lab.tarnRun(ctx, s, "import", path); err != nil {
						return err
					}
				}
				return nil
			},
			Measure: func(ctx context.Context) (float64, error) { return lab.peakOf(ctx, s, "import", last) },
		}
	}
	return rows(ctx, lab, Comparison{
		Work: "memory while importing a Debian root that borrows", Unit: Bytes, Bar: 1.1, Runs: 3,
		A: side(fmt.Sprintf("from %d", len(tars)-1), tars[:len(tars)-1]), B: side("from 1", tars[:1]),
	})
}

// uniqueContents adds up the sizes of all different contents of regular files.
func uniqueContents(tars []string) (float64, error) {
	seen := make(map[[sha256.Size]byte]bool)
	var sum float64
	for _, path := range tars {
		err := eachFile(path, func(h *tar.Header, r io.Reader) error {
			digest := sha256.New()
			if _, err := io.Copy(digest, r); err != nil {
				return err
			}
			if key := [sha256.Size]byte(digest.Sum(nil)); h.Typeflag == tar.TypeReg && !seen[key] {
				seen[key] = true
				sum += float64(h.Size)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

func eachFile(path string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := visit(h, r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

func tarnDisk(ctx context.Context, lab *Lab, tars []string) (float64, error) {
	s := lab.newStore("roots")
	for i, path := range tars {
		if err := lab.tarnRun(ctx, s, "import", "--name", "root"+strconv.Itoa(i), path); err != nil {
			return 0, err
		}
	}
	return diskUse(lab.path("roots"))
}

func podmanDisk(ctx context.Context, lab *Lab, tars []string) (float64, error) {
	for i, path := range tars {
		err := command(ctx, "podman", "--root", lab.path("podman/root"), "--runroot", lab.path("podman/run"),
			"--storage-driver", "overlay", "import", path, "root"+strconv.Itoa(i))
		if err != nil {
			return 0, err
		}
	}
	used, err := diskUse(lab.path("podman"))
	return used, errors.Join(err, os.RemoveAll(lab.path("podman")))
}

func dockerDisk(ctx context.Context, lab *Lab, tars []string) (_ float64, err error) {
	docker, err := lab.startDocker(ctx)
	if err != nil {
		return 0, err
	}
	before, err := diskUse(lab.path("docker/data"))
	for i := 0; i < len(tars) && err == nil; i++ {
		err = docker.run(ctx, "import", tars[i], "root"+strconv.Itoa(i))
	}
	docker.stop() // what it has in memory, or mounted, is not on the disk
	if err != nil {
		return 0, err
	}
	after, err := diskUse(lab.path("docker/data"))
	return after - before, err
}

// diskUse is what du -s says: the disk blocks of all files and directories, each once.
func diskUse(dir string) (float64, error) {
	seen := make(map[uint64]bool)
	var sum float64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			sum += float64(st.Blocks) * 512
		}
		return nil
	})
	return sum, err
}

// dedupFigure measures what looking for something to borrow costs where there is nothing.
func dedupFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	input, other := lab.path("unique.tar"), lab.path("other.tar")
	if err := errors.Join(writeUnique(input, lab.tar), writeNoise(other)); err != nil {
		return nil, err
	}
	side := func(name, dedup string) Side {
		s := append(lab.newStore("dedup-"+dedup), "TARN_DEDUP="+dedup)
		return Side{
			Name: name,
			Prepare: func(ctx context.Context) error {
				if err := os.RemoveAll(lab.path("dedup-" + dedup)); err != nil {
					return err
				}
				if err := lab.tarnRun(ctx, s, "import", "--name", "other", other); err != nil {
					return err
				}
				if err := command(ctx, "cat", input); err != nil {
					return err
				}
				return settle(ctx)
			},
			Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error { return lab.tarnRun(ctx, s, "import", "--name", "unique", input) })
			},
		}
	}
	return rows(ctx, lab, Comparison{
		Work: "import a tar that has nothing in common with any layer", Unit: Seconds, Bar: 1.1, Runs: 9,
		A: side("tarn import", "on"), B: side("with TARN_DEDUP=off", "off"),
	})
}

// writeUnique copies a tar and leaves out files with contents that came before.
func writeUnique(path, from string) error {
	return writeTar(path, func(w *tar.Writer) error {
		seen := make(map[[sha256.Size]byte]bool)
		return eachFile(from, func(h *tar.Header, r io.Reader) error {
			content, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			key := sha256.Sum256(content)
			if len(content) > 0 && seen[key] || h.Typeflag == tar.TypeLink {
				return nil
			}
			seen[key] = true
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			_, err = w.Write(content)
			return err
		})
	})
}

// writeNoise writes a tar of 5,000 files of noise.
func writeNoise(path string) error {
	return writeTar(path, func(w *tar.Writer) error {
		noise := rand.NewChaCha8([32]byte{7})
		content := make([]byte, 8192)
		for i := range 5000 {
			_, _ = noise.Read(content) // never fails
			if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Mode: 0o644, Size: int64(len(content))}); err != nil {
				return err
			}
			if _, err := w.Write(content); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeTar(path string, fill func(*tar.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	return errors.Join(fill(w), w.Close(), f.Close())
}
