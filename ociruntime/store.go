package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/atomicfile"
	"github.com/tarnfs/tarn/internal/sys"
)

var (
	// errNotFound is wrapped when there is no container of a name. The words are runc's: engines look
	// for them.
	errNotFound = errors.New("container does not exist")
	// errExists is wrapped when there is one already.
	errExists = errors.New("container with given ID already exists")
)

// Files of a container's directory; docs/format.md has what is in them.
const (
	stateFile  = "state.json"
	configFile = "config.json"
	startFile  = "start"   // the fifo its process waits at
	failedFile = "failure" // why it could not go on from there
)

// record is what state.json keeps of a container.
type record struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	PidStarted  uint64            `json:"pidStarted"` // with the pid, it means one process for ever
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Cgroup      string            `json:"cgroup"` // as the specification's linux.cgroupsPath
	Created     time.Time         `json:"created"`
	Owner       int               `json:"owner"` // the user ID that created it
	Annotations map[string]string `json:"annotations,omitempty"`
}

// hookState is what hooks are told of the container.
func (r *record) hookState(status specs.ContainerState) specs.State {
	return specs.State{Version: specs.Version, ID: r.ID, Status: status, Pid: r.Pid, Bundle: r.Bundle, Annotations: r.Annotations}
}

// held is a container's directory, locked: nobody else changes the container.
type held struct {
	path string
	lock *os.File
	record
}

func (h *held) close() { _ = h.lock.Close() }

func (h *held) file(name string) string { return filepath.Join(h.path, name) }

func checkID(id string) error {
	const longest = 1024
	const more = "_+.-"
	strange := func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune(more, c)
	}
	if len(id) > longest || id == "" || id == "." || id == ".." || strings.ContainsFunc(id, strange) {
		return fmt.Errorf("invalid container ID %q: want letters, digits and _ + . -", id)
	}
	return nil
}

// add makes the directory of a new container and locks it.
func (r *runtime) add(id string) (*held, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(r.root, id)
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s: %w", id, errExists)
	}
	if err != nil {
		return nil, err
	}
	return lockDir(id, path)
}

// hold locks a container and reads its record.
func (r *runtime) hold(id string) (*held, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	h, err := lockDir(id, filepath.Join(r.root, id))
	if err != nil {
		return nil, err
	}
	if h.record, err = r.read(id); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func lockDir(id, path string) (*held, error) {
	lock, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, errNotFound)
	}
	if err != nil {
		return nil, err
	}
	h := &held{path: path, lock: lock}
	h.ID = id
	if err := h.relock(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// unlock lets others change the container.
func (h *held) unlock() error { return sys.Unlock(h.lock) }

// relock locks a container again: errNotFound if it was removed meanwhile.
func (h *held) relock() error {
	if err := sys.WaitFlock(h.lock, true); err != nil {
		return err
	}
	// Who had the lock may have removed it, and somebody else made another one.
	mine, err := h.lock.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(h.path)
	if err == nil && os.SameFile(mine, now) {
		return nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = errNotFound
	}
	return fmt.Errorf("%s: %w", h.ID, err)
}

// read reads a container's record as it is now.
func (r *runtime) read(id string) (record, error) {
	var rec record
	if err := checkID(id); err != nil {
		return rec, err
	}
	text, err := os.ReadFile(filepath.Join(r.root, id, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("%s: %w", id, errNotFound)
	}
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		return rec, fmt.Errorf("container %s: %s: %w", id, stateFile, err)
	}
	return rec, nil
}

// save makes the container known: its record appears last. Nothing here outlives a reboot, so
// nothing waits for a disk.
func (h *held) save(config []byte) error {
	if err := atomicfile.Replace(h.file(configFile), config, 0o600); err != nil {
		return err
	}
	return h.saveRecord()
}

func (h *held) saveRecord() error {
	text, err := json.Marshal(&h.record)
	if err != nil {
		return err
	}
	return atomicfile.Replace(h.file(stateFile), text, 0o600)
}

// remove removes the container's directory, its record first: without one there is no container.
func (h *held) remove() error {
	if err := os.Remove(h.file(stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(h.path)
}

// status tells what became of a container.
func (r *runtime) status(rec record) (specs.ContainerState, error) {
	alive, err := isAlive(rec.Pid, rec.PidStarted)
	if err != nil || !alive {
		return specs.StateStopped, err
	}
	gate, err := openGate(filepath.Join(r.root, rec.ID, startFile))
	switch {
	case err == nil:
		_ = gate.Close()
		return specs.StateCreated, nil
	case errors.Is(err, syscall.ENXIO), errors.Is(err, fs.ErrNotExist):
		return runningOrPaused(rec)
	default:
		return "", err
	}
}

func runningOrPaused(rec record) (specs.ContainerState, error) {
	frozen, err := container.Frozen(rec.Cgroup)
	if frozen {
		return statePaused, err
	}
	return specs.StateRunning, err
}

// openGate opens the fifo a created container's process waits at: ENXIO if none waits.
func openGate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
}
