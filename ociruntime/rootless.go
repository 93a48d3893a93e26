package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/internal/sys"
)

// A user who is not root builds a container as root of a user namespace: this program executes itself again in one that
// has all IDs of the user's (subuid(5)), and with a mount namespace of that. The container's own user namespace is made
// in there, as root makes one. An exec enters the same outer one, whose owner the user is. All other commands need no
// rights that the user has not: who owns a user namespace may signal what is in it.

// rootlessEnv has the ID of the user for whom this program runs as root of a user namespace.
const rootlessEnv = "TARN_RUNTIME_ROOTLESS"

// rootlessUser gives that user's ID.
func rootlessUser() (uid int, ok bool) {
	uid, err := strconv.Atoi(os.Getenv(rootlessEnv))
	return uid, err == nil && os.Geteuid() == 0
}

// owner is the ID of who runs this program.
func owner() int {
	if uid, ok := rootlessUser(); ok {
		return uid
	}
	return os.Geteuid()
}

// asRoot runs a command that needs a root's rights in a program that has them in a user namespace, if this one has none;
// done tells whether it did. target is the process whose container's user namespace it is about, 0 for a new one.
func (r *runtime) asRoot(ctx context.Context, target int) (status int, done bool, err error) {
	if os.Geteuid() == 0 {
		return 0, false, nil
	}
	inner, err := r.innerProgram()
	if err != nil {
		return 1, true, err
	}
	p := &sys.Program{}
	defer p.Close()
	var child *sys.Spawned
	if target == 0 {
		child, err = inner.inNew(ctx, p)
	} else {
		child, err = inner.inThatOf(p, target)
	}
	if err != nil {
		return 1, true, fmt.Errorf("become root of a user namespace: %w", err)
	}
	defer child.Close()
	status, err = attend(ctx, child)
	return status, true, err
}

// innerProgram is this program once more.
type innerProgram struct {
	path      string
	args, env []string
}

func (r *runtime) innerProgram() (*innerProgram, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Where the states are is told, for root would have them elsewhere.
	args := append([]string{Name, "--root", r.root}, r.args...) // by that name it is the runtime, whatever it is else
	return &innerProgram{path, args, append(os.Environ(), fmt.Sprintf("%s=%d", rootlessEnv, os.Geteuid()))}, nil
}

// inNew runs it in a new user namespace.
func (i *innerProgram) inNew(ctx context.Context, p *sys.Program) (*sys.Spawned, error) {
	wait, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	defer release.Close()
	ids, err := ownIDs()
	if err != nil {
		return nil, err
	}
	p.ResetSignals()
	p.Await(wait)
	i.write(p, ids == nil)
	child, err := sys.Spawn(sys.NewUser, nil, p)
	if err != nil {
		return nil, err
	}
	if err = ids.give(ctx, child.Pid); err == nil {
		_, err = release.Write([]byte{1})
	}
	if err != nil {
		child.Discard()
		return nil, err
	}
	return child, nil
}

// inThatOf runs it in the user namespace that a container's is in.
func (i *innerProgram) inThatOf(p *sys.Program, pid int) (*sys.Spawned, error) {
	outer, err := sys.OuterUserNamespace(pid)
	if err != nil {
		return nil, err
	}
	defer outer.Close()
	p.ResetSignals()
	p.Enter("setns user", outer, sys.NewUser)
	i.write(p, sys.GroupsAreFixed(pid))
	return sys.Spawn(0, nil, p)
}

func (i *innerProgram) write(p *sys.Program, fixedGroups bool) {
	p.BeRoot(fixedGroups)
	p.Unshare(sys.NewMount)
	for fd := 3; sys.IsInherited(fd); fd++ { // --preserve-fds
		p.Keep(fd)
	}
	p.Exec("exec "+i.path, i.path, i.args, i.env)
}

// attend waits for the program's end, and passes on the signals that a terminal would not give both.
func attend(ctx context.Context, child *sys.Spawned) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Stop(signals)
	go func() {
		for sig := range signals {
			if number, ok := sig.(syscall.Signal); ok && number != syscall.SIGINT && number != syscall.SIGQUIT {
				_ = sys.SignalPidFD(child.PidFD, number) // it may have ended
			}
		}
	}()
	if err := sys.AwaitExit(ctx, child.PidFD); err != nil {
		child.Kill()
	}
	status, err := sys.WaitPidFD(child.PidFD)
	if err == nil {
		err = child.Failure()
	}
	switch {
	case err != nil:
		return 1, err
	case status.Signaled():
		return 128 + int(status.Signal()), nil
	default:
		return status.ExitStatus(), nil
	}
}

// idRange is a line of subuid(5): IDs that are a user's besides the own one.
type idRange struct{ first, count uint64 }

// subordinates are the IDs of a user besides the own ones.
type subordinates struct{ uids, gids []idRange }

// ownIDs gives nil if there are none, or no newuidmap(1), which alone may map them.
func ownIDs() (*subordinates, error) {
	uids, uidErr := subIDs("/etc/subuid")
	gids, gidErr := subIDs("/etc/subgid")
	if _, err := exec.LookPath("newuidmap"); err != nil || len(uids) == 0 || len(gids) == 0 {
		return nil, errors.Join(uidErr, gidErr)
	}
	return &subordinates{uids, gids}, errors.Join(uidErr, gidErr)
}

// give gives a process's new user namespace all IDs of the user: 0 is the user, and from 1 on come the others.
func (s *subordinates) give(ctx context.Context, pid int) error {
	if s == nil {
		return sys.MapOneID(pid, os.Geteuid(), os.Getegid())
	}
	if err := mapIDs(ctx, "newuidmap", pid, os.Geteuid(), s.uids); err != nil {
		return err
	}
	return mapIDs(ctx, "newgidmap", pid, os.Getegid(), s.gids)
}

func mapIDs(ctx context.Context, program string, pid, own int, others []idRange) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := uint64(1)
	for _, r := range others {
		args = append(args, strconv.FormatUint(next, 10), strconv.FormatUint(r.first, 10), strconv.FormatUint(r.count, 10))
		next += r.count
	}
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// subIDs reads the lines of a file like /etc/subuid that are about this user, by name or number.
func subIDs(file string) (ranges []idRange, err error) {
	text, err := readFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	uid := strconv.Itoa(os.Geteuid())
	name := userName(uid)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != uid {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if count > 0 {
			ranges = append(ranges, idRange{first, count})
		}
	}
	return ranges, nil
}

// fitRootless changes a specification that names IDs as they are on the host to the user namespace that this program is
// root of.
func fitRootless(spec *specs.Spec) (err error) {
	if _, ok := rootlessUser(); !ok {
		return nil
	}
	isUser := func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }
	if !slices.ContainsFunc(spec.Linux.Namespaces, isUser) {
		return fmt.Errorf("who is not root needs a user namespace among linux.namespaces (see '%s spec --rootless')", Name)
	}
	for file, m := range map[string]*[]specs.LinuxIDMapping{"/proc/self/uid_map": &spec.Linux.UIDMappings, "/proc/self/gid_map": &spec.Linux.GIDMappings} {
		text, err := readFile(file)
		if err != nil {
			return err
		}
		if *m, err = translate(*m, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// translate gives mappings to IDs of the host as mappings to IDs of a user namespace that has these lines of
// user_namespaces(7)'s uid_map.
func translate(mappings []specs.LinuxIDMapping, uidMap string) (fit []specs.LinuxIDMapping, err error) {
	var lines []specs.LinuxIDMapping
	for line := range strings.Lines(uidMap) {
		var l specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &l.ContainerID, &l.HostID, &l.Size); err != nil {
			return nil, fmt.Errorf("mappings of the user namespace: %w", err)
		}
		lines = append(lines, l)
	}
	for _, m := range mappings {
		for m.Size > 0 {
			l, ok := lineOf(lines, m.HostID)
			if !ok {
				return nil, fmt.Errorf("config.json maps ID %d of the host, which is none of the user's (/etc/subuid, /etc/subgid)", m.HostID)
			}
			skip := m.HostID - l.HostID
			n := min(m.Size, l.Size-skip)
			fit = append(fit, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: l.ContainerID + skip, Size: n})
			m.ContainerID, m.HostID, m.Size = m.ContainerID+n, m.HostID+n, m.Size-n
		}
	}
	return fit, nil
}

func lineOf(lines []specs.LinuxIDMapping, id uint32) (specs.LinuxIDMapping, bool) {
	for _, l := range lines {
		if id >= l.HostID && id-l.HostID < l.Size {
			return l, true
		}
	}
	return specs.LinuxIDMapping{}, false
}

// checkCgroup tells of a container that has no cgroup, since its user may make none.
func checkCgroup(path string) error {
	has, err := container.HasCgroup(path)
	if err == nil && !has {
		err = errors.New("the container has no cgroup, for you may make none here: it cannot be paused, limited or counted")
	}
	return err
}
