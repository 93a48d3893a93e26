package layer

import (
	"fmt"
	"io"

	"github.com/tarnfs/tarn/erofs"
)

// WriteIndex writes the EROFS index of the tree to w, which must be empty, and
// returns its size in bytes. tar is the tar the tree was scanned from; it is read
// only where a file's data is not aligned as EROFS needs it. The same tar gives the
// same bytes.
func (t *Tree) WriteIndex(w io.WriterAt, tar io.ReaderAt) (int64, error) {
	size, err := erofs.Write(w, t.Root, []erofs.Device{{Size: t.TarSize, Data: tar}}, erofs.Options{})
	if err != nil {
		return 0, fmt.Errorf("index of a layer: %w", err)
	}
	return size, nil
}
