package layer

import (
	"context"
	"io"
	"os"
)

// PackFiles writes a tar of one file, whatever its kind, as name; of a directory with all that is in it.
// With name "." it is what is in the directory. Unlike for [PackTree], what is mounted below is
// part of it, except for the file systems that show the kernel. handle may be opened with O_PATH;
// what changes meanwhile is as for [Pack].
func PackFiles(ctx context.Context, w io.Writer, handle *os.File, name string, opts PackOptions) error {
	walk := &walk{exclude: setOf(opts.Exclude), mounts: true, owner: opts.Owner}
	p := newPacker(w, opts)
	visit := func(s *step) error { return p.node(ctx, s) }
	if name != "." {
		if err := walk.handle(ctx, &step{name: name, path: name, parent: &level{plain: true, hides: true}}, handle, visit); err != nil {
			return err
		}
		return p.close()
	}
	_, top, err := newTreeWalk(handle, nil)
	if err != nil {
		return err
	}
	defer top.close()
	if err := walk.directory(ctx, top, visit); err != nil {
		return err
	}
	return p.close()
}
