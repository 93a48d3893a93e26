package container

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// cgroup is a cgroup of a container's own: in the cgroup2 hierarchy, and in those hierarchies of
// version 1 whose controllers limit it, or tell what it uses.
type cgroup struct {
	dir    string   // in cgroup2, "" if it has none there
	fd     *os.File // dir, opened
	legacy []legacyCgroup
}

// legacyCgroup is a cgroup in a hierarchy of version 1.
type legacyCgroup struct {
	hierarchy
	dir   string
	tasks *os.File // what a thread writes itself into, see openTasks
}

// openTasks opens what a process of one thread joins a cgroup of version 1 by. To join by cgroup.procs
// has the kernel stop all forks and ends of the whole machine, for which it waits for all processors
// (an RCU grace period, 10 ms); a thread that writes 0 moves itself alone, which takes 25 us
// (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
func openTasks(dir string) (*os.File, error) { return os.OpenFile(dir+"/tasks", os.O_WRONLY, 0) }

// counting are the controllers of version 1 that tell what a container uses. It is in their cgroups
// without a limit, too: podman and docker look there.
func counting() []string { return []string{"cpu", "cpuacct", "memory", "pids", "blkio"} }

// legacyDir gives the directory in the hierarchy of a controller of version 1.
func (c *cgroup) legacyDir(controller string) string {
	for _, l := range c.legacy {
		if slices.Contains(l.controllers, controller) {
			return l.dir
		}
	}
	return ""
}

// dirIn gives the directory in a hierarchy, "" if it has none there.
func (c *cgroup) dirIn(h hierarchy) string {
	if c == nil {
		return ""
	}
	if len(h.controllers) == 0 {
		return c.dir
	}
	return c.legacyDir(h.controllers[0])
}

// makeCgroup makes the cgroup that the specification names, with its limits. Where that needs no
// limits, and there is no hierarchy or none that may be written, it gives nil.
func makeCgroup(h hierarchies, spec *specs.Linux) (c *cgroup, err error) {
	name := spec.CgroupsPath
	if err := checkCgroupName(name); err != nil {
		return nil, err
	}
	limits, err := sortLimits(h, spec.Resources)
	if err != nil {
		return nil, err
	}
	c = &cgroup{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	if err := c.makeUnified(h, name, limits); err != nil {
		return c, err
	}
	for _, controller := range limits.subsystems {
		if err := c.makeLegacy(h, name, controller); err != nil {
			return c, err
		}
	}
	if err := c.makeCounting(h, name); err != nil {
		return c, err
	}
	if c.dir == "" && len(c.legacy) == 0 {
		return nil, nil //nolint:nilnil // documented: none that we may use
	}
	return c, limits.apply(c)
}

// makeCounting makes cgroups that tell what the container uses.
func (c *cgroup) makeCounting(h hierarchies, name string) error {
	for _, controller := range counting() {
		if h.legacyOf(controller) == nil {
			continue
		}
		if err := c.makeLegacy(h, name, controller); err != nil && !mayNot(err) {
			return err
		}
	}
	return nil
}

func (c *cgroup) makeUnified(h hierarchies, name string, l *limits) error {
	if h.unified.mount == "" {
		return nil
	}
	var err error
	for _, dir := range h.unified.directories(name) {
		if err = c.makeUnifiedAt(h, dir, l); !mayNot(err) {
			return err
		}
	}
	if len(l.controllers)+len(l.unified.Unified) == 0 {
		return nil // none that we may use
	}
	return needsCgroup(err)
}

func (c *cgroup) makeUnifiedAt(h hierarchies, dir string, l *limits) error {
	if err := makeCgroupDir(dir, func() error { return h.enable(filepath.Dir(dir), l.controllers) }); err != nil {
		return err
	}
	c.dir = dir
	var err error
	c.fd, err = sys.OpenPath(dir)
	return err
}

// needsCgroup says what a limit takes that this program may not make.
func needsCgroup(err error) error {
	return fmt.Errorf("limits need a cgroup of one's own: %w (without root, one that was given away, as by 'systemd-run --user --scope')", err)
}

// makeLegacy makes a cgroup in the hierarchy of a controller of version 1.
func (c *cgroup) makeLegacy(h hierarchies, name, controller string) error {
	if c.legacyDir(controller) != "" {
		return nil
	}
	l := h.legacyOf(controller)
	var err error
	for _, dir := range l.directories(name) {
		if err = makeCgroupDir(dir, func() error { return nil }); err == nil {
			tasks, openErr := openTasks(dir)
			c.legacy = append(c.legacy, legacyCgroup{*l, dir, tasks})
			return openErr
		}
		if !mayNot(err) {
			break
		}
	}
	if mayNot(err) {
		err = needsCgroup(err)
	}
	return err
}

// makeCgroupDir makes a cgroup, and those above it; above is called when those are there.
func makeCgroupDir(dir string, above func() error) error {
	parent := filepath.Dir(dir)
	if _, err := os.Lstat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := above(); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		// One without a process in it was left by a runtime that was killed.
		if err = removeTree(dir); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// enable has the controllers in the cgroups below dir, and in dir and all above it. Where cgroup2 is
// all there is, also those that tell what a container uses, if that can be.
func (h hierarchies) enable(dir string, needed []string) error {
	wanted := slices.Clone(needed)
	if len(h.legacy) == 0 && h.own == nil {
		wanted = append(wanted, "cpu", "io", "memory", "pids")
	}
	if len(wanted) == 0 {
		return nil
	}
	rel, err := filepath.Rel(h.unified.mount, dir)
	if err != nil {
		return err
	}
	at := h.unified.mount
	for _, name := range append([]string{"."}, strings.Split(rel, "/")...) {
		at = filepath.Join(at, name)
		if err := enableAt(at, wanted, needed); err != nil {
			return err
		}
	}
	return nil
}

func enableAt(dir string, wanted, needed []string) error {
	file := dir + "/cgroup.subtree_control"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	has := strings.Fields(string(text))
	for _, name := range wanted {
		if slices.Contains(has, name) {
			continue
		}
		err := writeCgroup(file, "+"+name)
		if errors.Is(err, syscall.EBUSY) {
			err = fmt.Errorf("%w: there are processes in %s itself", err, dir)
		}
		if err != nil && slices.Contains(needed, name) {
			return fmt.Errorf("have the %s controller: %w", name, err)
		}
	}
	return nil
}

// writeCgroup writes to a file of a cgroup, which must exist.
func writeCgroup(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// close closes the descriptors.
func (c *cgroup) close() {
	if c.fd != nil {
		_ = c.fd.Close()
	}
	for _, l := range c.legacy {
		_ = l.tasks.Close()
	}
}

// removeWait bounds how long the kernel gets for ending killed processes.
const removeWait = 10 * time.Second

// remove kills what is left in the cgroup and removes it.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	c.close()
	var errs []error
	if c.dir != "" {
		errs = append(errs, removeCgroup(c.dir))
	}
	for _, l := range c.legacy {
		errs = append(errs, removeCgroup(l.dir))
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	deadline := time.Now().Add(removeWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		killErr := killCgroup(dir)
		err := removeTree(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", cmp.Or(killErr, err))
		}
		time.Sleep(pause)
	}
}

// killCgroup kills all processes of a cgroup and of those below it. Version 1 has no call for it, so
// that who makes processes faster than they are killed has to be killed again.
func killCgroup(dir string) error {
	err := writeCgroup(dir+"/cgroup.kill", "1")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	pids, err := cgroupProcesses(dir)
	for _, pid := range pids {
		if killErr := syscall.Kill(pid, syscall.SIGKILL); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
			err = killErr
		}
	}
	return err
}

// removeTree removes a cgroup and those the container made in it. (Their files are not removed:
// they vanish with them.)
func removeTree(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return readErr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
