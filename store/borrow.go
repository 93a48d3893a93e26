package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/tarnfs/tarn/holes"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

// fileContents is a layer's table of the keys of its contents. It can be lost without harm.
const fileContents = "contents"

// OpenContents opens the layer's table of contents, which may be damaged.
func (l Layer) OpenContents() (*os.File, error) { return os.Open(filepath.Join(l.dir, fileContents)) }

// ReplaceContents gives a layer another table of contents.
func (l Layer) ReplaceContents(table []byte) error {
	if err := l.replaceSmall(fileContents, table); err != nil {
		return fmt.Errorf("layer %s: table of contents: %w", l.DiffID.Short(), err)
	}
	return nil
}

func (l Layer) replaceSmall(name string, data []byte) error {
	// Nothing unfinished is left in the layer.
	f, err := atomicfile.CreateTemp(l.store.path(dirTmp), 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(l.dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return atomicfile.SyncDir(l.dir)
}

// WriteContents gives the layer its table of contents.
func (ls *LayerStage) WriteContents(table []byte) error { return ls.writeSmall(fileContents, table) }

// writeSmall adds a small file that can be made again from the tar.
func (ls *LayerStage) writeSmall(name string, data []byte) error {
	f, err := createIn(ls.stage, name)
	if err != nil {
		return fmt.Errorf("stage a layer: %w", err)
	}
	ls.derived = append(ls.derived, f)
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("stage a layer: %w", err)
	}
	return nil
}

// Borrow takes from the staged layer's file what m says lies in the files of lenders, and gives the tar
// as it now lies, which is not to be closed. hold are open indexes that keep the lenders as they are;
// the stage closes them when it is published or aborted, whatever is returned. Where the file system does not tell
// who has a file open, or cannot punch holes and m is not packed, the layer is left as it is,
// borrowing nothing.
func (ls *LayerStage) Borrow(m *holes.Map, lenders, hold []*os.File) (*holes.Tar, error) {
	ls.hold = hold
	tar, err := ls.borrow(m, lenders)
	if err != nil {
		return nil, fmt.Errorf("stage a layer: %w", err)
	}
	return tar, nil
}

func (ls *LayerStage) borrow(m *holes.Map, lenders []*os.File) (*holes.Tar, error) {
	// A sweep must be able to tell who uses a lender.
	if _, err := sys.OpenElsewhere(ls.Index); errors.Is(err, sys.ErrNoLease) {
		return holes.Plain(ls.Tar)
	} else if err != nil {
		return nil, err
	}
	arrange := ls.pack
	if !m.Packed {
		arrange = ls.leave
	}
	if err := arrange(m); errors.Is(err, sys.ErrNoPunch) {
		return holes.Plain(ls.Tar)
	} else if err != nil {
		return nil, err
	}
	ls.holes = m
	if err := ls.writeHoles(); err != nil {
		return nil, err
	}
	return holes.NewTar(m, append([]*os.File{ls.Tar}, lenders...), nil)
}

// pack copies what is not borrowed to a file of its own.
func (ls *LayerStage) pack(m *holes.Map) error {
	blocks, err := createIn(ls.stage, fileBlocks)
	if err != nil {
		return err
	}
	whole := ls.Tar
	ls.Tar = blocks
	defer whole.Close()
	out := bufio.NewWriterSize(blocks, 1<<20)
	for own := range m.Own() {
		if _, err := io.Copy(out, io.NewSectionReader(whole, own.Offset, own.Length)); err != nil {
			return err
		}
	}
	return errors.Join(out.Flush(), os.Remove(whole.Name()))
}

// leave lets the bytes lie where they are: what is borrowed is punched when the disk has the file.
func (ls *LayerStage) leave(*holes.Map) error {
	if err := sys.CanPunch(ls.Tar); err != nil {
		return err
	}
	return ls.renameTar()
}

// punch makes holes of what is borrowed: of all blocks of the disk that lie in it. Nobody reads them, so
// that it is all the same when the disk has that.
func (ls *LayerStage) punch(m *holes.Map) error {
	return sys.PunchHoles(ls.Tar, func(yield func(sys.Range) bool) {
		end := int64(0)
		for own := range m.Own() {
			if !yield(sys.Range{Offset: end, Length: own.Offset - end}) {
				return
			}
			end = own.Offset + own.Length
		}
		yield(sys.Range{Offset: end, Length: m.Size - end})
	})
}

// renameTar says by its name that the file is no tar.
func (ls *LayerStage) renameTar() error {
	return os.Rename(filepath.Join(ls.stage.Path(), fileTar), filepath.Join(ls.stage.Path(), fileBlocks))
}

// writeHoles writes the map.
func (ls *LayerStage) writeHoles() error {
	f, err := createIn(ls.stage, fileHoles)
	if err != nil {
		return err
	}
	ls.holesFile = f
	_, err = f.Write(ls.holes.Encode())
	return err
}

// setGeneration gives the layer a generation that no remnant of it has, and none of the others given. The
// lock keeps remnants from coming and going.
func (ls *LayerStage) setGeneration(id holes.TarID, others ...uint32) error {
	for {
		_, err := os.Lstat(ls.store.remnantPath(id))
		if errors.Is(err, os.ErrNotExist) && !slices.Contains(others, id.Generation) {
			break
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		id.Generation++
	}
	if id.Generation == 0 {
		return nil
	}
	if ls.holes == nil {
		info, err := os.Stat(filepath.Join(ls.stage.Path(), fileTar))
		if err != nil {
			return err
		}
		ls.holes = &holes.Map{Size: info.Size()}
		if err := ls.renameTar(); err != nil {
			return err
		}
	}
	ls.holes.Generation = id.Generation
	return atomicfile.Write(filepath.Join(ls.stage.Path(), fileHoles), ls.holes.Encode(), 0o600)
}
