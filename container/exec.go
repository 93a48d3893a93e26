package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/tarnfs/tarn/internal/sys"
)

// program is what a container executes.
type program struct {
	path string // as execve(2) takes it
	// interpreters are what the kernel will open after it, if it is a script, and scripts those
	// again are.
	interpreters []string
}

// Limits of linux/binfmts.h and fs/exec.c: the bytes of a file the kernel looks at, and how many
// scripts may be each other's interpreter.
const (
	shebangSize = 256
	maxScripts  = 5
)

// findProgram looks a program up in the container's file system. What this program is in the container's
// procfs is nothing there.
func findProgram(root *os.File, name, cwd string, env []string) (program, error) {
	p := program{}
	var err error
	if p.path, err = lookPath(root, name, cwd, env); err != nil {
		return p, err
	}
	for next := p.path; len(p.interpreters) <= maxScripts; {
		interpreter, err := shebang(root, absolute(cwd, next))
		if errors.Is(err, fs.ErrNotExist) && next != p.path {
			return p, fmt.Errorf("exec %s: its interpreter %s: %w", name, next, ErrNotFound)
		}
		if err != nil {
			return p, fmt.Errorf("exec %s: %w: %w", name, ErrNotExecutable, err)
		}
		if interpreter == "" {
			break
		}
		p.interpreters = append(p.interpreters, interpreter)
		next = interpreter
	}
	return p, nil
}

// lookPath finds a program as a shell does: by PATH, if there is no slash in its name.
func lookPath(root *os.File, name, cwd string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		err := executable(root, absolute(cwd, name))
		if err != nil {
			return "", fmt.Errorf("exec %s: %w", name, err)
		}
		return name, nil
	}
	search := DefaultPath
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			search = value
		}
	}
	var denied error
	for dir := range strings.SplitSeq(search, ":") {
		// Joined by hand: "./name" must keep its slash.
		candidate := strings.TrimSuffix(dir, "/") + "/" + name
		if dir == "" {
			candidate = "./" + name
		}
		err := executable(root, absolute(cwd, candidate))
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, ErrNotFound) {
			denied = err
		}
	}
	if denied != nil {
		return "", fmt.Errorf("exec %s: %w", name, denied)
	}
	return "", fmt.Errorf("exec %s: %w in PATH", name, ErrNotFound)
}

func absolute(cwd, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return cwd + "/" + name
}

// executable tells whether a path is a file that somebody may execute.
func executable(root *os.File, name string) error {
	f, err := sys.OpenInRoot(root, name, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotExecutable, err)
	}
	defer f.Close()
	node, err := sys.StatNode(f)
	switch {
	case err != nil:
		return err
	case node.Type == sys.TypeDir:
		return fmt.Errorf("%w: it is a directory", ErrNotExecutable)
	case node.Type != sys.TypeRegular:
		return fmt.Errorf("%w: it is no regular file", ErrNotExecutable)
	case node.Perm&0o111 == 0:
		return fmt.Errorf("%w: permission denied", ErrNotExecutable)
	}
	return nil
}

// shebang gives the interpreter of a script, "" if the file is none. The kernel's own rules:
// fs/binfmt_script.c.
func shebang(root *os.File, name string) (string, error) {
	if err := executable(root, name); err != nil {
		if errors.Is(err, ErrNotFound) {
			return "", fs.ErrNotExist
		}
		return "", err
	}
	f, err := sys.OpenInRoot(root, name, sys.OpenRead)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, shebangSize)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	line, ok := bytes.CutPrefix(buf[:n], []byte("#!"))
	if !ok {
		return "", nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	fields := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == 0 })
	if len(fields) == 0 {
		return "", syscall.ENOEXEC
	}
	return string(fields[0]), nil
}
