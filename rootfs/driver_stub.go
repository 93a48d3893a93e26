package rootfs

import (
	"context"
	"os"
)

type erofsDriver struct{ run string }
type dirsDriver struct{}
type autoDriver struct{ mounts, extracts Driver }

func (*erofsDriver) Name() string                                { return Erofs }
func (*erofsDriver) Mount(context.Context, Layer) (*os.File, error) { return nil, ErrUnsupported }
func (*erofsDriver) Release(Layer) error                         { return ErrUnsupported }
func (*dirsDriver) Name() string                                 { return Dirs }
func (*dirsDriver) Mount(context.Context, Layer) (*os.File, error)  { return nil, ErrUnsupported }
func (*dirsDriver) Release(Layer) error                          { return ErrUnsupported }
func (*autoDriver) Name() string                                 { return Auto }
func (*autoDriver) Mount(context.Context, Layer) (*os.File, error)  { return nil, ErrUnsupported }
func (*autoDriver) Release(Layer) error                          { return ErrUnsupported }
