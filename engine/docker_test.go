package engine_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/rootfs"
)

// dockerScript has a case of each rule that Docker's list of changes follows.
const dockerScript = `
echo x > /etc/new; echo changed > /etc/passwd; rm /etc/group; chmod 700 /tmp; touch /root
rm -r /home; mkdir -p /home/user/deep; echo f > /home/user/deep/f
rm /bin/vi; mkdir /bin/vi; echo f > /bin/vi/f; rm -r /bin/ls; ln -s busybox /bin/ls
mkdir -p /opt/a/b; rm -r /opt/a; mkdir /gone; rmdir /gone; mkfifo /fifo; mknod /node c 7 7; chown 5 /bin/cat`

// TestCommitAndDiffAsDocker does the same in a container of Docker's, and compares what Docker tells of
// it, and what it makes of it.
func TestCommitAndDiffAsDocker(t *testing.T) {
	docker := testenv.Docker(t)
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t), "ENV A=1", "LABEL a=b", "CMD [\"sh\"]")
	archive := filepath.Join(testenv.TempDir(t), "box.tar")
	require.NoError(t, h.Save(t.Context(), engine.SaveOptions{Images: []string{"box"}, Output: archive}))
	docker("load", "--input", archive)

	docker("run", "--network", "none", "--name", "work", "--env", "B=2", "--user", "0", "box", "sh", "-euc", dockerScript)
	h.run("box", "c", dockerScript, func(o *engine.RunOptions) { o.Env = []string{"B=2"} })
	want := strings.Split(strings.TrimSpace(docker("diff", "work")), "\n")
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	require.Equal(t, want, h.diff("c"))

	options := []string{"--author", "Ada", "--message", "m", "--change", "ENV C=$B", "--change", "ENTRYPOINT [\"cat\"]", "--change", "EXPOSE 80"}
	docker(append(append([]string{"commit"}, options...), "work", "docker:1")...)
	docker("save", "--output", archive+"2", "docker:1")
	h.commit("c", engine.CommitOptions{Name: "tarn:1", Author: "Ada", Message: "m", Changes: []string{"ENV C=$B", "ENTRYPOINT [\"cat\"]", "EXPOSE 80"}})
	_, err := h.Load(t.Context(), engine.LoadOptions{Input: archive + "2"})
	require.NoError(t, err)
	theirs, ours := h.mounted("docker:1"), h.mounted("tarn:1")
	treecmp.Equal(t, theirs, ours, treecmp.Options{
		Skip: func(path string) bool {
			return path == ".dockerenv" || path == "dev" || path == "proc" || path == "sys"
		},
		// Docker's tars have whole seconds.
		SkipTime: func(string) bool { return true },
	})
	require.Equal(t, told(t, h, "docker:1"), told(t, h, "tarn:1"))
}

// told is what two commits of the same have in common in their configs.
func told(t *testing.T, h *host, ref string) string {
	t.Helper()
	img, err := h.Image(ref)
	require.NoError(t, err)
	c := *img.Config
	c.Created, c.RootFS.DiffIDs = nil, nil
	c.Container, c.ContainerConfig, c.DockerVersion = "", nil, ""
	c.Config.Hostname, c.Config.Image = "", ""
	slices.Sort(c.Config.Env)
	for i := range c.History {
		c.History[i].Created = nil
	}
	data, err := json.MarshalIndent(c, "", "  ")
	require.NoError(t, err)
	return string(data)
}
