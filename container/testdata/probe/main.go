//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
// (Go's own look at its cgroup leaves files open.)

// Command probe is what the tests run in containers. Its first argument says what to do:
//
//	look       print as JSON what the process finds itself with
//	exit N     exit with status N
//	sleep      wait for a signal; print the name of SIGTERM or SIGUSR1 and exit
//	orphans    leave processes behind and exit
//	echo       copy standard input to standard output
//	flood      write to standard output until that fails; print why to standard error
//	sum        print the SHA-256 of standard input
//	tty        print "terminal", its size, and again after each SIGWINCH
//	try CMD... print what happens to each attempt
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println("probe")
		return
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "look":
		look(args)
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "kill":
		n, _ := strconv.Atoi(args[0])
		signal.Reset()
		syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Hour)
	case "sleep":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println(<-c)
	case "orphans":
		for range 3 {
			cmd := exec.Command("/proc/self/exe", "hold")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
			}
		}
	case "hold":
		time.Sleep(time.Hour)
	case "eat": // megabytes of memory
		n, _ := strconv.Atoi(args[0])
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("full")
	case "breed": // as many processes
		n, _ := strconv.Atoi(args[0])
		for range n {
			if err := exec.Command("/proc/self/exe", "hold").Start(); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "flood":
		_, err := io.Copy(os.Stdout, zeros{})
		fmt.Fprintln(os.Stderr, err)
	case "sum":
		h := sha256.New()
		n, err := io.Copy(h, os.Stdin)
		fmt.Printf("%x %d %v\n", h.Sum(nil), n, err)
	case "tty":
		tty()
	case "try":
		for _, a := range args {
			fmt.Println(a, try(a))
		}
	}
}

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(string(b))
}

// look prints what the tests compare. The arguments are more files to read.
func look(files []string) {
	fds := openFiles()
	status := map[string]string{}
	for _, line := range strings.Split(read("/proc/self/status"), "\n") {
		k, v, _ := strings.Cut(line, ":")
		status[k] = strings.TrimSpace(v)
	}
	ns := map[string]string{}
	for _, n := range []string{"mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time"} {
		ns[n], _ = os.Readlink("/proc/self/ns/" + n)
	}
	cwd, _ := os.Getwd()
	host, _ := os.Hostname()
	dev := map[string]string{}
	filepath.WalkDir("/dev", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		switch info, err := d.Info(); {
		case err != nil:
		case d.Type()&os.ModeSymlink != 0:
			dev[path], _ = os.Readlink(path)
		default:
			st := info.Sys().(*syscall.Stat_t)
			dev[path] = fmt.Sprintf("%v %d:%d %d:%d", info.Mode(), st.Rdev>>8&0xfff, st.Rdev&0xff, st.Uid, st.Gid)
		}
		return nil
	})
	content := map[string]string{}
	for _, f := range files {
		content[f] = read(f)
	}
	exe, _ := os.Readlink("/proc/self/exe")
	old := syscall.Umask(0)
	groups, _ := os.Getgroups()
	sort.Ints(groups)
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"pid": os.Getpid(), "ppid": os.Getppid(), "sid": sid(), "status": status, "ns": ns, "cwd": cwd, "hostname": host,
		"domainname": read("/proc/sys/kernel/domainname"), "fds": fds, "dev": dev, "env": os.Environ(), "args": os.Args,
		"limits": read("/proc/self/limits"), "mounts": read("/proc/self/mountinfo"), "cgroup": read("/proc/self/cgroup"),
		"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "exe": exe, "umask": old, "files": content,
		"ioprio": ioPriority(), "key": sessionKeyring(), "lo": read("/sys/class/net/lo/operstate") + " " + read("/sys/class/net/lo/flags"), "oom": read("/proc/self/oom_score_adj"),
	})
}

// openFiles lists what is open before this program has opened anything: not even /proc/self/fd.
func openFiles() []string {
	fds := []string{}
	for fd := range 4096 {
		if to, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil {
			fds = append(fds, strconv.Itoa(fd)+" "+to)
		}
	}
	return fds
}

// sessionKeyring gives the serial number of the session keyring, or why there is none to be seen.
func sessionKeyring() string {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		return "error: " + err.Error()
	}
	return strconv.Itoa(id)
}

func ioPriority() int {
	n, _, _ := syscall.RawSyscall(syscall.SYS_IOPRIO_GET, 1, 0, 0)
	return int(n)
}

func sid() int {
	n, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	return int(n)
}

// try does one thing that should mostly be refused, and gives "ok" or the error.
func try(what string) string {
	verb, arg, _ := strings.Cut(what, ":")
	err := func() error {
		switch verb {
		case "write":
			f, err := os.OpenFile(arg, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		case "create":
			return os.WriteFile(arg, []byte("x"), 0o600)
		case "read":
			b, err := os.ReadFile(arg)
			if err == nil && len(b) == 0 {
				return fmt.Errorf("empty")
			}
			return err
		case "list":
			l, err := os.ReadDir(arg)
			if err == nil && len(l) == 0 {
				return fmt.Errorf("empty")
			}
			return err
		case "open": // for reading, without waiting
			f, err := os.OpenFile(arg, os.O_RDONLY|syscall.O_NONBLOCK, 0)
			if err == nil {
				f.Close()
			}
			return err
		case "chmod":
			return os.Chmod(arg, 0o777)
		case "mkdir":
			return os.Mkdir(arg, 0o755)
		case "mount":
			return syscall.Mount("tmpfs", arg, "tmpfs", 0, "")
		case "disk", "fuse": // a node of the first disk or of FUSE, read
			node, number := uint32(syscall.S_IFBLK), 254<<8
			if verb == "fuse" {
				node, number = syscall.S_IFCHR, 10<<8|229
			}
			os.Remove(arg)
			if err := syscall.Mknod(arg, node|0o600, number); err != nil {
				return fmt.Errorf("mknod: %w", err)
			}
			f, err := os.Open(arg)
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			return f.Close()
		case "null": // a null device somewhere else
			if err := syscall.Mknod(arg, syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
				return fmt.Errorf("mknod: %w", err)
			}
			f, err := os.OpenFile(arg, os.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			return f.Close()
		case "hostname":
			return syscall.Sethostname([]byte(arg))
		case "unshare":
			return syscall.Unshare(syscall.CLONE_NEWNS)
		case "connect": // to a server of our own
			l, err := net.Listen("tcp", arg)
			if err != nil {
				return err
			}
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				c.Close()
			}
			return err
		case "queue": // a POSIX message queue
			name, err := unix.BytePtrFromString(arg)
			if err != nil {
				return err
			}
			_, _, errno := syscall.Syscall6(syscall.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), syscall.O_CREAT|syscall.O_RDWR, 0o600, 0, 0, 0)
			if errno != 0 {
				return errno
			}
			return nil
		case "listen":
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			return syscall.Bind(fd, &syscall.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}})
		}
		return fmt.Errorf("unknown verb")
	}()
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func tty() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	for {
		var size [4]uint16
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
		if errno != 0 {
			fmt.Println("no terminal:", errno)
			return
		}
		name, _ := os.Readlink("/proc/self/fd/0")
		f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		fmt.Println("terminal", name, size[1], size[0], "controlling:", err == nil)
		if err == nil {
			f.Close()
		}
		<-changed
	}
}
