package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tarnfs/tarn/internal/testenv"
)

// seeing is how long something may take to be seen. It is long: other tests may run.
const seeing = time.Minute

// terminal is a shell in a terminal of tmux, where somebody types.
type terminal struct {
	t      *testing.T
	socket string
	env    []string
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	testenv.RequireTool(t, "tmux")
	testenv.RequireErofsFile(t)
	root, run := testenv.TarnRoot(t)
	output(t, tarn(t, root, run, "import", "--name", "box", testenv.BusyboxTar(t)))
	s := &terminal{t: t, socket: filepath.Join(testenv.TempDir(t), "tmux")}
	s.env = append(os.Environ(), "TARN_ROOT="+root, "TARN_RUN="+run, "PS1=$ ", "TERM=xterm", "LC_ALL=C.UTF-8")
	s.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-s", "s", "sh")
	t.Cleanup(func() {
		s.tmux("kill-server")
		output(t, tarn(t, root, run, "rm", "-f", "term"))
	})
	return s
}

func (s *terminal) tmux(args ...string) string {
	s.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...) //nolint:noctx // the clean-up needs it after the test's end
	cmd.Env = s.env
	return output(s.t, cmd)
}

// say types keys, by tmux's names.
func (s *terminal) say(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys", "-t", "s"}, keys...)...)
}

// line types a line.
func (s *terminal) line(text string) {
	s.t.Helper()
	s.say("-l", text)
	s.say("Enter")
}

// sees waits until text is on the screen.
func (s *terminal) sees(text string) {
	s.t.Helper()
	var screen string
	for end := time.Now().Add(seeing); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if screen = s.tmux("capture-pane", "-p", "-t", "s"); strings.Contains(screen, text) {
			return
		}
	}
	s.t.Fatalf("%q is not seen:\n%s", text, screen)
}

// resize gives the terminal another size, and waits until programs see that.
func (s *terminal) resize(cols, rows int) {
	s.t.Helper()
	s.tmux("resize-window", "-t", "s", "-x", strconv.Itoa(cols), "-y", strconv.Itoa(rows))
	s.settings(fmt.Sprintf("rows %d; columns %d;", rows, cols))
}

// settings waits until the terminal has these, as stty(1) prints them.
func (s *terminal) settings(want ...string) {
	s.t.Helper()
	tty := s.tmux("display-message", "-p", "-t", "s", "#{pane_tty}")
	var text string
	for end := time.Now().Add(seeing); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		text = output(s.t, exec.Command("stty", "-F", tty, "-a")) //nolint:noctx // it is short
		if !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) }) {
			return
		}
	}
	s.t.Fatalf("the terminal has not %q:\n%s", want, text)
}

// attached waits until what is typed goes to a container as it is.
func (s *terminal) attached() {
	s.t.Helper()
	s.settings("-icanon", "-isig")
}

// clear makes what was seen before unseen.
func (s *terminal) clear() {
	s.t.Helper()
	s.line("clear; echo cle''ared")
	s.sees("cleared")
}

// TestTerminal is a session with containers: a shell in one, another size, leaving and coming back, and its end.
func TestTerminal(t *testing.T) {
	s := newTerminal(t)
	s.line("tarn run -it --name term box sh")
	s.attached()
	s.line("stty size; tty")
	s.sees("24 80")
	s.sees("/dev/pts/0")
	s.resize(100, 30)
	s.line("clear; stty size")
	s.sees("30 100")

	// What is typed is the container's business: Ctrl-C ends a program in it, and not the session.
	s.line("echo be''gun; sleep 1000")
	s.sees("begun")
	s.say("C-c")
	s.line("clear; echo still $((40 + 2))")
	s.sees("still 42")

	// The keys to leave; a lone beginning of them is the container's.
	s.line("echo be''gun again; cat -v")
	s.sees("begun again")
	s.say("C-p", "x", "Enter")
	s.sees("^Px")
	s.say("C-p", "C-q")
	s.settings(" icanon")
	s.clear()
	s.line("tarn ps --format '{{.Names}}={{.State}}'")
	s.sees("term=running")

	// Another size while nobody is there, then back, with other keys.
	s.resize(90, 20)
	s.line("tarn attach --detach-keys ctrl-x,d term")
	s.attached()
	s.say("-l", "typed")
	s.sees("typed")
	s.say("Enter", "C-d")
	s.line("clear; stty size")
	s.sees("20 90")
	s.say("C-x", "d")
	s.settings(" icanon")
	s.clear()

	// Two at a time see the same; what each types arrives.
	s.line("tarn exec -it term sh")
	s.attached()
	s.line("stty size; tty; echo $PPID > /ppid")
	s.sees("/dev/pts/1")
	s.say("C-p", "C-q")
	s.settings(" icanon")
	s.clear()
	s.line("tarn attach term; echo status $?")
	s.attached()
	s.line("exit 7")
	s.sees("status 7")
	s.line("tarn ps -a --format '{{.Names}}={{.Status}}'")
	s.sees("term=Exited (7)")

	// It is started again, with its terminal.
	s.clear()
	s.line("tarn start -ai term; echo status $?")
	s.attached()
	s.line("tty; exit 3")
	s.sees("/dev/pts/0")
	s.sees("status 3")

	// The log has what was on the terminal.
	s.clear()
	s.line("tarn logs term | grep -c '30 100' | sed s/^/lines:/")
	s.sees("lines:1")
}

// TestTerminalOfHangup closes the user's terminal: the container runs on.
func TestTerminalOfHangup(t *testing.T) {
	s := newTerminal(t)
	s.line("tarn run -it --name term box sh -c 'echo the''re; sleep 1000'")
	s.sees("there")
	s.tmux("new-window", "-d", "sh") // else the server ends
	s.tmux("kill-window", "-t", "s:0")
	s.tmux("select-window", "-t", "s:1")
	s.line(fmt.Sprintf("sleep %g; tarn ps --format '{{.Names}}={{.State}}'", 0.2))
	s.sees("term=running")
}
