package erofs

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tarnfs/tarn/internal/testenv"
)

// runFsck runs a fsck.erofs over an image, and lets it read every file, too.
func runFsck(t testing.TB, fsck, image string, devices []string) {
	t.Helper()
	var args []string
	for _, d := range devices {
		args = append(args, "--device="+d)
	}
	for _, mode := range []string{"-p", "--extract"} {
		cmd := exec.CommandContext(t.Context(), fsck, append(args, mode, image)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs %s: %v\n%s", mode, err, out)
		}
	}
}

func TestFsckAcceptsImages(t *testing.T) {
	fsck := testenv.FsckErofs(t)
	data := testData()
	for _, blockBits := range []uint8{9, 12} {
		t.Run(fmt.Sprintf("everything/%d", blockBits), func(t *testing.T) {
			image, devices := writeFiles(t, everything(data), data, Options{BlockBits: blockBits})
			runFsck(t, fsck, image, devices)
		})
	}
	for seed := range uint64(10) {
		t.Run(fmt.Sprintf("random/%d", seed), func(t *testing.T) {
			tree := randomTree(rand.New(rand.NewPCG(seed, 0)), data)
			image, devices := writeFiles(t, tree, data, Options{})
			runFsck(t, fsck, image, devices)
		})
	}
}

// TestFsckOfDebian12 asks erofs-utils 1.5, which knows only 4096-byte blocks.
func TestFsckOfDebian12(t *testing.T) {
	testenv.RequireTool(t, "fsck.erofs")
	data := testData()
	image, devices := writeFiles(t, everything(data), data, Options{BlockBits: 12})
	runFsck(t, "fsck.erofs", image, devices)
}

func TestFsckExtractsSameXattrs(t *testing.T) {
	testenv.RequireRoot(t)
	fsck := testenv.FsckErofs(t)
	data := testData()
	tree := everything(data)
	image, devices := writeFiles(t, tree, data, Options{})
	target := filepath.Join(testenv.TempDir(t), "root")
	args := []string{"--extract=" + target, "--xattrs", "--preserve"}
	for _, d := range devices {
		args = append(args, "--device="+d)
	}
	if out, err := exec.CommandContext(t.Context(), fsck, append(args, image)...).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs --extract: %v\n%s", err, out)
	}
	v := &kernelView{t: t}
	for _, e := range tree.Entries {
		if e.Name != "xattrs" {
			continue
		}
		for _, e := range e.Inode.Entries {
			// It does not extract empty values, and changes the owner last,
			// which removes capabilities.
			if e.Name != "many" && e.Name != "capability" {
				v.compareXattrs(filepath.Join(target, "xattrs", e.Name), e.Inode)
			}
		}
	}
}
