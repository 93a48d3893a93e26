package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tarnfs/tarn/base"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

func TestMain(m *testing.M) {
	testscript.Main(ownNetwork{m}, map[string]func(){"tarn": main})
}

// ownNetwork runs tests whose containers' networks nobody else sees, with tarn-monitor beside what is tarn in them:
// where that looks for it.
type ownNetwork struct{ *testing.M }

func (m ownNetwork) Run() int {
	testenv.InOwnNetwork()
	tarn, err := exec.LookPath("tarn")
	if err == nil {
		build := exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(tarn), "tarn-monitor"), "../tarn-monitor") //nolint:noctx // there is no test yet
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build tarn-monitor:", err)
		return 1
	}
	return m.M.Run()
}

// TestScripts runs the scripts in testdata/script: each is what a user types, with a store of its own
// and the real kernel. Besides testscript's own commands they have these:
//
//	exits STATUS PROGRAM [ARG...]   run a program that exits with STATUS
//	fails STATUS MESSAGE [ARG...]   run "tarn ARG..."; it exits with STATUS, and prints "tarn: MESSAGE"
//	                                and nothing else
//	image NAME [CHANGE...]          make an image of $BUSYBOX, a root file system's tar
//
// and the conditions [base]: the image "base" is embedded, [debian]: $DEBIAN, a Debian root file
// system's tar, is there, [nginx]: so is $NGINX, a directory of Debian packages, and [exists:PATH].
func TestScripts(t *testing.T) {
	testenv.RequireErofsFile(t)
	runScripts(t, testscript.Params{Dir: "testdata/script"})
}

// TestScriptsWithDirs runs what is about containers once more, with layers as extracted directories.
func TestScriptsWithDirs(t *testing.T) {
	testenv.RequireRoot(t)
	t.Setenv("TARN_STORAGE_DRIVER", rootfs.Dirs)
	files, err := filepath.Glob("testdata/script/run_*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	runScripts(t, testscript.Params{Files: append(files, "testdata/script/stop.txtar", "testdata/script/travel.txtar")})
}

func runScripts(t *testing.T, params testscript.Params) {
	t.Helper()
	busybox := testenv.BusyboxTar(t)
	debian := filepath.Join(testenv.CacheDir(t), "debian.tar")
	nginx := filepath.Join(testenv.CacheDir(t), "nginx")
	service, err := filepath.Abs("../../dist/tarn-restart.service.in")
	if err != nil {
		t.Fatal(err)
	}
	params.WorkdirRoot = testenv.TempDir(t) // on a disk, and gone at the end
	params.RequireExplicitExec, params.RequireUniqueNames, params.ContinueOnError = true, true, true
	params.UpdateScripts = os.Getenv("UPDATE_SCRIPTS") != ""
	params.Setup = func(env *testscript.Env) error {
		t, ok := env.T().(testing.TB)
		if !ok {
			return errors.New("testscript gave no testing.TB")
		}
		root, run := testenv.TarnRoot(t)
		env.Setenv("TARN_ROOT", root)
		env.Setenv("TARN_RUN", run)
		env.Setenv("TARN_STORAGE_DRIVER", os.Getenv("TARN_STORAGE_DRIVER"))
		env.Setenv("BUSYBOX", busybox)
		env.Setenv("DEBIAN", debian)
		env.Setenv("NGINX", nginx)
		env.Setenv("SERVICE", service)
		return nil
	}
	params.Condition = func(name string) (bool, error) {
		switch name {
		case "base":
			return there(base.ErrNotBuilt, func() (io.Closer, error) { return base.Open() })
		case "debian":
			return there(os.ErrNotExist, func() (io.Closer, error) { return os.Open(debian) })
		case "nginx":
			return there(os.ErrNotExist, func() (io.Closer, error) { return os.Open(nginx) })
		}
		path, ok := strings.CutPrefix(name, "exists:")
		if !ok {
			return false, fmt.Errorf("unknown condition %q", name)
		}
		_, err := os.Stat(path)
		return err == nil, nil
	}
	params.Cmds = map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"exits": exits, "fails": fails, "image": makeImage,
	}
	testscript.Run(t, params)
}

// there tells whether something can be opened. In CI it is an error if it is missing.
func there(missing error, open func() (io.Closer, error)) (bool, error) {
	f, err := open()
	if errors.Is(err, missing) && os.Getenv("CI") == "" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// exits checks the exit status of a program.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// fails checks what a user sees of an error.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails STATUS MESSAGE [ARG...]")
	}
	exits(ts, false, append([]string{args[0], "tarn"}, args[2:]...))
	want := "tarn: " + args[1] + "\n"
	if got := ts.ReadFile("stderr"); got != want {
		ts.Fatalf("standard error is not\n%swant\n%s", got, want)
	}
	if got := ts.ReadFile("stdout"); got != "" {
		ts.Fatalf("standard output should be empty, and is\n%s", got)
	}
}

func makeImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: image NAME [CHANGE...]")
	}
	command := []string{"import", "--name", args[0]}
	for _, change := range args[1:] {
		command = append(command, "--change", change)
	}
	ts.Check(ts.Exec("tarn", append(command, ts.Getenv("BUSYBOX"))...))
}
