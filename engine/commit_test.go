package engine_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/internal/treecmp"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/rootfs"
)

// busyboxChanges is what a container of busybox can do to its file system.
const busyboxChanges = `
echo root:x:0:0::/root:/bin/sh > /etc/passwd
rm /etc/group /bin/vi; rm -r /home/user; mkdir /home/user; echo new > /home/user/f
chmod 700 /bin; chmod 4711 /bin/busybox; chown -h 5:6 /bin/ls; touch -d @1234567890 /root
mkdir -p /opt/a/b/c; echo f > /opt/a/b/c/f; ln /opt/a/b/c/f /opt/g; ln -s /nowhere /opt/a/link
mkfifo /opt/fifo; mknod /opt/null c 1 3; mknod /opt/disk b 8 17
truncate -s 5M /opt/sparse; echo end >> /opt/sparse
mv /opt/a /opt/z; mv /home /abode; echo more > /abode/user/more
n=0; while [ $n -lt 200 ]; do echo $n > /opt/$n; n=$((n+1)); done
`

func TestCommitIsWhatTheContainerSees(t *testing.T) {
	busybox := testenv.BusyboxTar(t)
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		t.Run(driver, func(t *testing.T) {
			h := newHost(t, driver)
			h.importFile("box", busybox)
			h.run("box", "one", busyboxChanges)
			h.commit("one", engine.CommitOptions{Name: "first"})
			h.requireSame("one", "first")
			// And once more on top of that, with deletions in what was renamed.
			h.run("first", "two", `rm -r /abode; rm /opt/1*; mv /opt /opt2; mkdir /opt; chmod 600 /opt2/sparse; rmdir /root`)
			h.commit("two", engine.CommitOptions{Name: "second"})
			h.requireSame("two", "second")
			// What busybox cannot do is done from outside.
			byHand := exec.CommandContext(t.Context(), "sh", "-euc", `
				touch -r passwd passwd group; setfacl -m u:1000:rw,g:70000:r passwd; setfattr -n user.a -v 1 group
				cp -a /bin/true capable; setcap cap_net_raw+ep capable; chmod 600 group; chown 70000:80000 group
				mkdir acl; setfacl -m d:u:5:rwx acl; setfattr -n trusted.b -v 2 acl; mkdir acl/below
				printf x > "$(printf 'long%.0s' $(seq 60))"; touch -d @1234567890.123456789 capable; ln capable capable2`)
			byHand.Dir = filepath.Join(h.mounted("two"), "etc")
			out, err := byHand.CombinedOutput()
			require.NoError(t, err, "%s", out)
			h.commit("two", engine.CommitOptions{Name: "third"}) // while it is mounted
			h.umount("two")
			h.requireSame("two", "third")
			requireNoLeftovers(t, h.Engine)
		})
	}
}

// TestCommitOfDebian changes a Debian root as its users do.
func TestCommitOfDebian(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("debian", testenv.DebianTar(t))
	h.run("debian", "work", `
		export DEBIAN_FRONTEND=noninteractive
		dpkg --purge --force-all --force-remove-essential less tzdata perl-base > /dev/null 2>&1 || true
		rm -rf /usr/share/doc /usr/share/man /var/lib/apt/lists
		mv /usr/lib/git-core /usr/lib/git-moved; ln -s git-moved /usr/lib/git-core
		git init -q /src; echo 'print(1)' > /src/a.py; cd /src; git add .; git -c user.name=a -c user.email=a@b commit -qm a
		python3 -m compileall -q /usr/lib/python3/dist-packages /src
		useradd -m ada; su ada -c 'echo hello > ~/f'; chmod -R g+w /etc/apt; chown -R ada /var/log
		cp -a /usr/share/perl5 /opt/perl5; rm -r /usr/share/perl5/Debconf
		ldconfig; usermod -aG sudo ada`)
	h.commit("work", engine.CommitOptions{Name: "changed"})
	want := h.requireSame("work", "changed")
	exported, err := treecmp.Read(h.exported("work"), treecmp.Options{})
	require.NoError(t, err)
	h.requireNone(treecmp.DiffEntries(want, exported))
	require.Equal(t, "hello\n1\n", h.run("changed", "", `cat /home/ada/f; python3 /src/a.py; git -C /src log -1 --format= `))
}

// TestCommitIsDeterministic makes the same changes with different drivers, in containers that run and
// that do not: the image is the same.
func TestCommitIsDeterministic(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1600000000")
	busybox := testenv.BusyboxTar(t)
	ids := map[image.Digest][]string{}
	for _, driver := range []string{rootfs.Erofs, rootfs.Dirs} {
		h := newHost(t, driver)
		h.importFile("box", busybox)
		c := h.startBox(busyboxChanges + "echo ready; read x || true")
		commit := func(when string) {
			id := h.commit("c", engine.CommitOptions{Author: "a", Message: "m"})
			ids[id] = append(ids[id], driver+" "+when)
		}
		commit("running")
		require.NotContains(t, string(h.topLayer("box")), "1600000000")
		c.end()
		commit("ended")
		h.mounted("c")
		commit("mounted")
		h.umount("c")
		commit("again")
	}
	require.Len(t, ids, 1, "%v", ids)
}

func TestCommitConfig(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1600000000")
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t), "ENV A=image B=image", "LABEL from=image", "CMD [\"ls\"]", "USER 1000", "EXPOSE 80", "STOPSIGNAL SIGINT")
	h.run("box", "c", "touch /made", func(o *engine.RunOptions) {
		o.Env, o.Labels, o.WorkDir = []string{"A=container", "C=container", "NOT_SET_HERE"}, []string{"run=yes"}, "/work"
		o.Hostname = "elsewhere"
	})
	id := h.commit("c", engine.CommitOptions{
		Name: "made:1", Author: "Ada <ada@example.com>", Message: "made it",
		Changes: []string{`ENTRYPOINT ["cat"]`, "ENV D=$A", "LABEL to=commit"},
	})
	img, err := h.Image("made:1")
	require.NoError(t, err)
	require.Equal(t, id, img.ID)
	parent, err := h.Image("box")
	require.NoError(t, err)
	epoch := time.Unix(1_600_000_000, 0).UTC()
	require.Equal(t, image.RunConfig{
		User: "0", WorkingDir: "/work", Entrypoint: image.Words{"cat"},
		Env:          []string{"A=container", "B=image", "C=container", "D=container"},
		Labels:       map[string]string{"from": "image", "run": "yes", "to": "commit"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGINT",
	}, img.Config.Config)
	require.Equal(t, append(parent.Config.History, image.History{
		Created: &epoch, CreatedBy: "sh -euc touch /made", Author: "Ada <ada@example.com>", Comment: "made it",
	}), img.Config.History)
	require.Equal(t, "Ada <ada@example.com>", img.Config.Author)
	require.Equal(t, &epoch, img.Config.Created)
	require.Equal(t, parent.Config.Platform(), img.Config.Platform())
	require.Equal(t, parent.Config.RootFS.DiffIDs, img.Config.RootFS.DiffIDs[:1])
	require.Len(t, img.Config.RootFS.DiffIDs, 2)
	require.Contains(t, h.run("made:1", "", "", func(o *engine.RunOptions) { o.Command = []string{"/etc/passwd"} }), "root:")
	env := h.run("made:1", "", "env", func(o *engine.RunOptions) { o.Entrypoint, o.Hostname = new(string), "here" })
	require.Contains(t, env, "HOSTNAME=here\n", "the first container's is not the second's")
}

// TestCommitOfNothing makes an image without a layer of its own, as Docker does.
func TestCommitOfNothing(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "c", "ls / > /dev/null")
	_, err := h.Run(t.Context(), engine.RunOptions{
		CreateOptions: engine.CreateOptions{Image: "box", Name: "never", Command: []string{"/no/such"}, NetworkOptions: engine.NetworkOptions{Networks: []string{engine.NetworkNone}}},
		Stdin:         os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	require.Error(t, err)
	for _, name := range []string{"c", "never"} {
		require.Empty(t, h.diff(name))
		id := h.commit(name, engine.CommitOptions{Changes: []string{"CMD echo changed"}})
		img, err := h.Image(string(id))
		require.NoError(t, err)
		require.Len(t, img.Config.RootFS.DiffIDs, 1)
		last := img.Config.History[len(img.Config.History)-1]
		require.True(t, last.EmptyLayer)
		require.Equal(t, "changed\n", h.run(string(id), "", "", func(o *engine.RunOptions) { o.Command = nil }))
		_, err = h.History(t.Context(), string(id))
		require.NoError(t, err)
	}
	requireNoLeftovers(t, h.Engine)
}

// TestCommitLeavesOutMounts has files in all that is mounted in a container, and in the places where.
func TestCommitLeavesOutMounts(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "base", "mkdir -p /run /var /data; ln -s /run /var/run; echo image > /data/f")
	h.commit("base", engine.CommitOptions{Name: "linked"})
	bind := t.TempDir()
	h.run("linked", "c", `
		echo x > /data/f; echo x > /bind/f; echo x > /tmp/f; echo x > /var/run/deep/f; echo x > /dev/shm/f
		echo x >> /etc/hosts; echo x >> /etc/resolv.conf; echo x >> /etc/hostname; echo x > /anonymous/f
		echo kept > /kept`,
		func(o *engine.RunOptions) {
			o.Volumes = []string{"vol:/data", bind + ":/bind", "/anonymous"}
			o.Tmpfs = []string{"/tmp", "/var/run/deep"}
		})
	require.Equal(t, []string{"A /kept"}, h.diff("c"))
	h.commit("c", engine.CommitOptions{Name: "committed"})
	for name := range tarContents(t, h.topLayer("committed")) {
		require.Contains(t, []string{"./", "kept", "run/"}, name)
	}
	require.Equal(t, "image\n", h.run("committed", "", "cat /data/f; ls -d /bind /anonymous /run/deep 2> /dev/null || true"))
	require.FileExists(t, filepath.Join(bind, "f"))
}

// TestCommitRefuses says what cannot be done, before or instead of doing half of it.
func TestCommitRefuses(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	h.run("box", "hostile", "mkdir /d; touch /d/.wh.x")
	h.run("box", "plain", "touch /x")
	for name, tc := range map[string]struct {
		container string
		opts      engine.CommitOptions
		is        error
		says      string
	}{
		"a name that means deletion": {"hostile", engine.CommitOptions{Name: "made"}, layer.ErrReserved, `commit hostile: pack "/d/.wh.x"`},
		"no container":               {"nobody", engine.CommitOptions{Name: "made"}, engine.ErrNoContainer, "nobody"},
		"an instruction":             {"plain", engine.CommitOptions{Name: "made", Changes: []string{"RUN x"}}, image.ErrChange, "RUN x"},
		"a name":                     {"plain", engine.CommitOptions{Name: "MADE"}, image.ErrReference, "MADE"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Commit(t.Context(), tc.container, tc.opts)
			require.ErrorIs(t, err, tc.is)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
			_, err = h.Image("made")
			require.ErrorIs(t, err, engine.ErrNoImage)
			requireNoLeftovers(t, h.Engine)
		})
	}
}

// TestCommitWhileRunning looks for a file that is half written, which only a container that was not
// paused can have, and for life after the pause.
func TestCommitWhileRunning(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	c := h.startBox(`
		echo 0 > /a; echo 0 > /z; echo ready
		( n=0; while :; do n=$((n+1)); echo $n > /t; mv /t /a; echo $n > /t; mv /t /z; done ) &
		while read x; do cat /z; done; kill $!`)
	for i := range 5 {
		name := fmt.Sprintf("paused:%d", i)
		h.commit("c", engine.CommitOptions{Name: name, Pause: true})
		entries := tarContents(t, h.topLayer(name))
		a, z := number(t, entries["a"]), number(t, entries["z"])
		require.Contains(t, []int{0, 1}, a-z, "written one after the other, and nothing else between")
	}
	h.commit("c", engine.CommitOptions{Name: "running"})
	require.Contains(t, h.diff("c"), "A /a")
	c.say("go on")
	before := number(t, c.line())
	for after := before; after == before; after = number(t, c.line()) {
		c.say("go on")
	}
	c.end()
}

// TestCommitOfAFileThatShrinks has a program cut a file again and again while it is read. Unless it is
// paused, the commit says so.
func TestCommitOfAFileThatShrinks(t *testing.T) {
	h := newHost(t, rootfs.Erofs)
	h.importFile("box", testenv.BusyboxTar(t))
	c := h.startBox(`
		dd if=/dev/urandom of=/source bs=1M count=40 2> /dev/null
		echo ready
		( while :; do cat /source > /big; done ) &
		read x || true; kill $!`)
	changed := 0
	for range 10 {
		_, err := h.Commit(t.Context(), "c", engine.CommitOptions{})
		if err != nil {
			require.ErrorIs(t, err, layer.ErrChanged)
			require.ErrorContains(t, err, `"/big"`)
			changed++
		}
	}
	t.Logf("%d of 10 commits gave up", changed)
	h.commit("c", engine.CommitOptions{Name: "whole", Pause: true})
	c.end()
	requireNoLeftovers(t, h.Engine)
}

// tarContents gives the regular files of a tar.
func tarContents(t *testing.T, data []byte) map[string]string {
	t.Helper()
	contents := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return contents
		}
		require.NoError(t, err)
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		contents[h.Name] = string(text)
	}
}

func number(t *testing.T, text string) (n int) {
	t.Helper()
	_, err := fmt.Sscan(strings.TrimSpace(text), &n)
	require.NoError(t, err, "%q", text)
	return n
}
