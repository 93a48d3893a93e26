package engine

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/layer"
)

// ExportOptions says what to export, and where to.
type ExportOptions struct {
	Container string
	Output    string // a file; "" or "-" for Stdout
	Stdout    *os.File
}

// Export writes a tar of a container's whole root file system, running or not: what Mount shows. What
// is mounted in the container is not in it. A file is whole or not there.
func (e *Engine) Export(ctx context.Context, opts ExportOptions) error {
	c, err := e.container(ctx, opts.Container)
	if err != nil {
		return err
	}
	write := func(w io.Writer) error {
		return e.readContents(ctx, c, contentsOptions{}, func(x *contents) error {
			return layer.PackTree(ctx, w, x.Merged, layer.PackOptions{Owner: x.owner})
		})
	}
	switch {
	case opts.Output != "" && opts.Output != "-":
		err = saveFile(opts.Output, write)
	case isTerminal(opts.Stdout):
		err = errTerminalOutput()
	default:
		err = write(opts.Stdout)
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Name, err)
	}
	return nil
}
