package engine_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	at "github.com/tarnfs/tarn/internal/archivetest"
)

// The environment of a process that loads standard input until a transfer comes to a state, says so, and
// waits there to be killed.
const (
	crashRoot  = "TARN_TEST_CRASH_ROOT"
	crashState = "TARN_TEST_CRASH_STATE"
)

func loadUntilState(root string) {
	state, err := strconv.Atoi(os.Getenv(crashState))
	if err != nil {
		panic(err)
	}
	stop := func() {
		_, _ = os.Stdout.WriteString("now\n")
		select {}
	}
	e, err := engine.Open(engine.Options{Root: root, Run: root + ".run"})
	if err != nil {
		panic(err)
	}
	_, err = e.Load(context.Background(), engine.LoadOptions{Stdin: os.Stdin, Report: func(transfer engine.Transfer) {
		if int(transfer.State) == state && (transfer.State != engine.Running || transfer.Done > 1<<20) {
			stop()
		}
	}})
	panic(err) // it should not have come here
}

func TestKilledLoadLeavesNothing(t *testing.T) {
	if root := os.Getenv(crashRoot); root != "" {
		loadUntilState(root)
	}
	images := map[string]at.Image{"a/b:1": at.NewImage("x", gzLayer(t, bigTar(t)), gzLayer(t, at.LayerTar(t, at.File{Name: "f"})))}
	tar := at.Layout(images, "a/b:1").Tar(t)
	for name, state := range map[string]engine.TransferState{
		"while it is copied from the pipe": engine.Waiting,
		"while a layer is read":            engine.Running,
		"when a layer is whole":            engine.Completed,
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			e, err := engine.Open(engine.Options{Root: root, Run: t.TempDir()})
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledLoadLeavesNothing$")
			cmd.Env = append(os.Environ(), crashRoot+"="+root, crashState+"="+strconv.Itoa(int(state)))
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			if state == engine.Waiting {
				_, err = stdin.Write(tar[:len(tar)/2])
				require.NoError(t, err)
			} else {
				_, err = stdin.Write(tar)
				require.NoError(t, err)
				require.NoError(t, stdin.Close())
				line, err := bufio.NewReader(stdout).ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "now\n", line)
				left, err := os.ReadDir(filepath.Join(root, "pins"))
				require.NoError(t, err)
				require.NotEmpty(t, left, "something is there")
			}
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			if state == engine.Waiting { // later, layers that are whole are there, though nobody's
				requireEmpty(t, e, "layers")
				requireEmpty(t, e, "blobs")
			}
			requireEmpty(t, e, "images")

			load(t, e, writeFile(t, "x.tar", tar))
			requireNoLeftovers(t, e)
			requireEmpty(t, e, "pins")
			require.Len(t, records(t, e), 1)
		})
	}
}
