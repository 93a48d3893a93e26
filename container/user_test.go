package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/container"
)

const (
	passwdFile = "root:x:0:0:root:/root:/bin/sh\nbin:x:2:2::/bin:\nme:x:1000:1000:Me:/home/me:/bin/sh\n77:x:1077:1077::/odd:\nnohome:x:5:5:::\n"
	groupFile  = "root:x:0:\nbin:x:2:me\nme:x:1000:\nwheel:x:10:root,me\nalso:x:2000:77\n"
)

func TestLookupUser(t *testing.T) {
	b := newBox(t)
	b.write("etc/passwd", passwdFile, 0o644)
	b.write("etc/group", groupFile, 0o644)
	root := b.openRoot()
	defer root.Close()
	for name, want := range map[string]string{
		"":              "0:0 [0 10] /root",
		"root":          "0:0 [0 10] /root",
		"0":             "0:0 [0 10] /root",
		"me":            "1000:1000 [1000 2 10] /home/me",
		"1000":          "1000:1000 [1000 2 10] /home/me",
		"me:":           "1000:1000 [1000 2 10] /home/me",
		"me:wheel":      "1000:10 [10] /home/me",
		"me:2000":       "1000:2000 [2000] /home/me",
		"1000:4242":     "1000:4242 [4242] /home/me",
		"4242":          "4242:0 [0] /",
		"4242:wheel":    "4242:10 [10] /",
		"4242:4243":     "4242:4243 [4243] /",
		"77":            "77:0 [0] /", // a number is no name
		":wheel":        "0:10 [10] /root",
		"nohome":        "5:5 [5] ",
		"0:0":           "0:0 [0] /root",
		"2147483647":    "2147483647:0 [0] /",
		"2147483647:10": "2147483647:10 [10] /",
	} {
		u, home, err := container.LookupUser(root, name)
		require.NoError(t, err, name)
		require.Equal(t, want, fmt.Sprintf("%d:%d %v %s", u.UID, u.GID, u.AdditionalGids, home), "%q", name)
	}
	for name, message := range map[string]string{
		"nobody":     `user "nobody": unable to find user nobody: no matching entries in passwd file`,
		"me:nobody":  `user "me:nobody": unable to find group nobody: no matching entries in group file`,
		"2147483648": `user "2147483648": uids and gids must be in range 0-2147483647`,
		"-1":         `user "-1": uids and gids must be in range 0-2147483647`,
		"0:-1":       "uids and gids must be in range",
	} {
		_, _, err := container.LookupUser(root, name)
		require.ErrorContains(t, err, message)
	}
}

func TestLookupUserWithoutFiles(t *testing.T) {
	for name, prepare := range map[string]func(b *box){
		"no etc":       func(*box) {},
		"etc is empty": func(b *box) { b.mkdir("etc") },
		"etc a file":   func(b *box) { b.write("etc", "", 0o644) },
	} {
		b := newBox(t)
		prepare(b)
		root := b.openRoot()
		u, home, err := container.LookupUser(root, "1000:5")
		require.NoError(t, err, name)
		require.Equal(t, specs.User{UID: 1000, GID: 5, AdditionalGids: []uint32{5}}, u)
		require.Equal(t, "/", home)
		_, _, err = container.LookupUser(root, "me")
		require.ErrorContains(t, err, "unable to find user me", name)
		require.NoError(t, root.Close())
	}
}

// What an image has as its user files may be anything.
func TestLookupUserInHostileFiles(t *testing.T) {
	v := newVictim(t)
	in := func(name string) func(b *box) string { return func(b *box) string { return b.path("etc/" + name) } }
	for name, tc := range map[string]struct {
		prepare func(b *box)
		message string
	}{
		"a fifo":      {func(b *box) { require.NoError(b.t, syscall.Mkfifo(in("passwd")(b), 0o644)) }, "/etc/passwd of the image is no regular file"},
		"a device":    {func(b *box) { require.NoError(b.t, syscall.Mknod(in("group")(b), syscall.S_IFCHR|0o666, 1<<8|5)) }, "/etc/group of the image is no regular file"},
		"a directory": {func(b *box) { b.mkdir("etc/passwd") }, "no regular file"},
		"a socket":    {func(b *box) { require.NoError(b.t, syscall.Mknod(in("passwd")(b), syscall.S_IFSOCK|0o666, 0)) }, "no regular file"},
		"a loop":      {func(b *box) { b.symlink("passwd", "etc/passwd") }, "too many levels of symbolic links"},
		"without end": {func(b *box) {
			b.write("etc/passwd", "", 0o644)
			require.NoError(b.t, os.Truncate(in("passwd")(b), 1<<40))
		}, "larger than 8 MiB"},
		"a large line": {func(b *box) { b.write("etc/passwd", "x:"+strings.Repeat("x", 1<<20)+"\nhost:x:1:1:::\n", 0o644) }, `user "host"`},
		"a large group": {
			func(b *box) {
				b.write("etc/group", "big:x:10:"+strings.Repeat("someone,", 1<<17)+"host\n", 0o644)
			}, "unable to find user host",
		},
		"an ID too large": {func(b *box) { b.write("etc/passwd", "host:x:4294967295:0:::\n", 0o644) }, "in range"},
		"a negative ID":   {func(b *box) { b.write("etc/passwd", "host:x:-1:0:::\n", 0o644) }, "in range"},
		"a large group ID": {
			func(b *box) {
				b.write("etc/passwd", "host:x:1:1:::\n", 0o644)
				b.write("etc/group", "g:x:4294967295:host\n", 0o644)
			}, "in range",
		},
	} {
		b := newBox(t)
		b.mkdir("etc")
		tc.prepare(b)
		root := b.openRoot()
		_, _, err := container.LookupUser(root, "host")
		require.ErrorContains(t, err, tc.message, name)
		require.NoError(t, root.Close())
	}
	// The host's files are not read, whatever links lead there.
	for way, target := range ways(filepath.Join(v.dir, "passwd")) {
		b := newBox(t)
		b.symlink(target, "etc/passwd")
		root := b.openRoot()
		u, _, err := container.LookupUser(root, "host")
		require.Error(t, err, "%s: %v", way, u)
		require.NoError(t, root.Close())
	}
	// And a link inside of the image is followed, as Debian-like images have them.
	b := newBox(t)
	b.write("usr/lib/passwd", "host:x:77:78::/h:\n", 0o644)
	b.symlink("../usr/lib/passwd", "etc/passwd")
	root := b.openRoot()
	defer root.Close()
	u, home, err := container.LookupUser(root, "host")
	require.NoError(t, err)
	require.Equal(t, "77:78 /h", fmt.Sprintf("%d:%d %s", u.UID, u.GID, home))
	_, _, err = container.LookupUser(root, "4294967295")
	require.ErrorIs(t, err, user.ErrRange)
}
