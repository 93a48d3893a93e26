package powerdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Server shows disks as files.
type Server struct {
	dir    string
	server *fuse.Server
	root   *directory
}

// Serve mounts a file system without files on the directory dir. It needs root.
func Serve(dir string) (*Server, error) {
	root := &directory{disks: make(map[string]*Disk)}
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{
		FsName: "powerdisk", Name: "powerdisk", DirectMountStrict: true, DisableXAttrs: true, DisableSplice: true,
	}})
	if err != nil {
		return nil, fmt.Errorf("mount FUSE on %s: %w", dir, err)
	}
	if err := keepConnection(); err != nil {
		return nil, errors.Join(err, server.Unmount())
	}
	return &Server{dir: dir, server: server, root: root}, nil
}

// keepConnection keeps the connection to the kernel to this process. go-fuse lets programs that are started later inherit
// it; then, if this process died, whoever uses a disk would wait for an answer for as long as they live.
func keepConnection() error {
	entries, err := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + entry.Name()); err != nil || to != "/dev/fuse" {
			continue // ReadDir's own, perhaps
		}
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		unix.CloseOnExec(fd)
	}
	return err
}

// Add shows the disk as a file of that name, and gives its path.
func (s *Server) Add(name string, d *Disk) string {
	s.root.mu.Lock()
	defer s.root.mu.Unlock()
	s.root.disks[name] = d
	return s.dir + "/" + name
}

// Remove takes a file away. Who has it open keeps it.
func (s *Server) Remove(name string) {
	s.root.mu.Lock()
	defer s.root.mu.Unlock()
	delete(s.root.disks, name)
}

// Close unmounts the file system. No file may be open, but by those who have what was mounted from one in a copy of the
// mount namespace, as containers that are just being started: these are waited for.
func (s *Server) Close() (err error) {
	for range 600 {
		if err = s.server.Unmount(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// directory is the root of the file system.
type directory struct {
	fs.Inode

	mu    sync.Mutex
	disks map[string]*Disk
}

var _ fs.NodeLookuper = (*directory)(nil)

// Lookup finds a disk. The kernel asks each time: it was not told to remember.
func (d *directory) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.disks[name]
	if disk == nil {
		return nil, syscall.ENOENT
	}
	file := &file{disk: disk}
	file.describe(&out.Attr)
	return d.NewInode(ctx, file, fs.StableAttr{Mode: syscall.S_IFREG}), 0
}

// file is a disk as a file.
type file struct {
	fs.Inode

	disk *Disk
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeAllocater = (*file)(nil)
)

func (f *file) describe(attr *fuse.Attr) {
	attr.Mode, attr.Size, attr.Nlink = syscall.S_IFREG|0o600, uint64(f.disk.size), 1
}

// Getattr gives the size.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.describe(&out.Attr)
	return 0
}

// Open has the kernel cache nothing: what is not on the disk is in its cache, and nowhere else.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, p []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData(p[:f.disk.read(p, offset)]), 0
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, p []byte, offset int64) (uint32, syscall.Errno) {
	own := append([]byte{}, p...) // p is the kernel's to use again
	if !f.disk.write(write{offset: offset, size: int64(len(p)), data: own}) {
		return 0, syscall.ENOSPC
	}
	return uint32(len(p)), 0
}

// Fsync is what the loop device makes of a flush.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.disk.flush()
	return 0
}

// Modes of fallocate(2), from linux/falloc.h.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// Allocate is what the loop device makes of a discard, and of a write of zeros.
func (f *file) Allocate(_ context.Context, _ fs.FileHandle, offset, size uint64, mode uint32) syscall.Errno {
	if mode&^fallocKeepSize != fallocPunchHole && mode&^fallocKeepSize != fallocZeroRange {
		return syscall.EOPNOTSUPP
	}
	if !f.disk.write(write{offset: int64(offset), size: int64(size)}) {
		return syscall.ENOSPC
	}
	return 0
}
