package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// readFigure measures reading every file of a root, mounted by tarn and unpacked below an overlay.
func readFigure(ctx context.Context, lab *Lab) (result []Row, err error) {
	store, err := lab.debian(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := lab.tarnOutput(ctx, store, "mount", "debian")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.tarnRun(ctx, store, "umount", "debian")) }()
	theirs, unmount, err := lab.unpackedOverlay(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	// The same work, or the times mean nothing.
	a, err := lab.child(ctx, "child-read", ours)
	if err != nil {
		return nil, err
	}
	b, err := lab.child(ctx, "child-read", theirs)
	if err != nil {
		return nil, err
	}
	if a != b {
		return nil, fmt.Errorf("the roots differ: %s here, %s there", a, b)
	}

	side := func(name, dir string, prepare func(context.Context) error) Side {
		return Side{Name: name, Prepare: prepare, Measure: func(ctx context.Context) (float64, error) {
			return timed(func() error {
				_, err := lab.child(ctx, "child-read", dir)
				return err
			})
		}}
	}
	const oursName, theirsName = "tarn mount", "overlay over unpacked"
	return rows(ctx, lab,
		Comparison{
			Work: "read every file (" + a + "), caches dropped", Unit: Seconds, Bar: 1, Runs: 5,
			A: side(oursName, ours, dropCaches), B: side(theirsName, theirs, dropCaches),
		},
		Comparison{
			Work: "read every file again", Unit: Seconds, Bar: 1, Runs: 15,
			A: side(oursName, ours, nil), B: side(theirsName, theirs, nil),
		})
}

// unpackedOverlay unpacks the root and mounts an overlay on it, as other engines do.
func (l *Lab) unpackedOverlay(ctx context.Context) (merged string, unmount func() error, err error) {
	dir := l.path("overlay")
	var paths []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", nil, err
		}
		paths = append(paths, path)
	}
	if err := command(ctx, "tar", "-x", "-f", l.tar, "-C", paths[0]); err != nil {
		return "", nil, err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", paths[0], paths[1], paths[2])
	if err := command(ctx, "mount", "-t", "overlay", "-o", options, "overlay", paths[3]); err != nil {
		return "", nil, err
	}
	unmount = func() error {
		if err := command(context.WithoutCancel(ctx), "umount", paths[3]); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}
	return paths[3], unmount, nil
}

// readChild reads every regular file below a directory and prints how many, and their bytes.
func readChild(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: child-read DIR")
	}
	var files, bytes int64
	buffer := make([]byte, 128<<10)
	err := filepath.WalkDir(args[0], func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		n, err := readFile(path, buffer)
		files, bytes = files+1, bytes+n
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%d files, %d bytes\n", files, bytes)
	return err
}

func readFile(path string, buffer []byte) (total int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		n, err := f.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
