package rootfs_test

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/rootfs"
)

// complete is an image that lacks nothing.
func complete() []tar.Header {
	return []tar.Header{
		dir("dev", 0o755), dir("dev/pts", 0o755), dir("dev/shm", 0o1777), dir("etc", 0o755), file("etc/hostname", 0o644),
		file("etc/hosts", 0o644), link("etc/mtab", "../proc/self/mounts"), file("etc/resolv.conf", 0o644),
		dir("proc", 0o555), dir("sys", 0o555),
	}
}

// without gives a complete image without the named entries and what is below them, and with others.
func without(names []string, instead ...tar.Header) []tar.Header {
	left := slices.DeleteFunc(complete(), func(h tar.Header) bool {
		name := strings.TrimSuffix(h.Name, "/")
		return slices.ContainsFunc(names, func(gone string) bool { return name == gone || strings.HasPrefix(name, gone+"/") })
	})
	return append(left, instead...)
}

// below prefixes names.
func below(parent string, names ...string) []string {
	all := []string{}
	for _, n := range names {
		all = append(all, parent+n)
	}
	return all
}

func TestInitLayer(t *testing.T) {
	testenv.RequireErofsFile(t)
	etcFiles := []string{"hostname 0644", "hosts 0644", "mtab 0777", "resolv.conf 0644"}
	wholeEtc := append([]string{"etc 0755"}, below("etc/", etcFiles...)...)
	for name, tc := range map[string]struct {
		image []tar.Header
		want  []string // of the init layer; nil when there is none
	}{
		"complete image": {image: complete()},
		"empty image": {
			image: []tar.Header{dir(".", 0o711)},
			want:  slices.Concat([]string{"dev 0755", "dev/pts 0755", "dev/shm 0755"}, wholeEtc, []string{"proc 0755", "sys 0755"}),
		},
		"no resolv.conf":                   {without([]string{"etc/resolv.conf"}), []string{"etc 0755", "etc/resolv.conf 0644"}},
		"no mtab":                          {without([]string{"etc/mtab"}), []string{"etc 0755", "etc/mtab 0777"}},
		"mtab is a file":                   {image: without([]string{"etc/mtab"}, file("etc/mtab", 0o644))},
		"no /dev/shm, /dev is special":     {without([]string{"dev"}, dir("dev", 0o700), dir("dev/pts", 0o755)), []string{"dev 0700", "dev/shm 0755"}},
		"/proc is a symlink out":           {without([]string{"proc"}, link("proc", "../../../proc")), []string{"proc 0755"}},
		"/proc is a file":                  {without([]string{"proc"}, file("proc", 0o644)), []string{"proc 0755"}},
		"/sys is a symlink to itself":      {without([]string{"sys"}, link("sys", "sys")), []string{"sys 0755"}},
		"/dev is a symlink":                {without([]string{"dev"}, link("dev", "/tmp"), dir("tmp", 0o777)), []string{"dev 0755", "dev/pts 0755", "dev/shm 0755"}},
		"/dev is a symlink out":            {without([]string{"dev"}, link("dev", "../../../../dev")), []string{"dev 0755", "dev/pts 0755", "dev/shm 0755"}},
		"/dev is a fifo":                   {without([]string{"dev"}, tar.Header{Name: "dev", Typeflag: tar.TypeFifo, Mode: 0o666}), []string{"dev 0755", "dev/pts 0755", "dev/shm 0755"}},
		"/dev/pts is a symlink":            {without([]string{"dev/pts"}, link("dev/pts", "/etc")), []string{"dev 0755", "dev/pts 0755"}},
		"resolv.conf dangles":              {without([]string{"etc/resolv.conf"}, link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")), []string{"etc 0755", "etc/resolv.conf 0644"}},
		"hosts is a symlink out":           {without([]string{"etc/hosts"}, link("etc/hosts", "../../../../etc/hosts")), []string{"etc 0755", "etc/hosts 0644"}},
		"hosts is a directory":             {without([]string{"etc/hosts"}, dir("etc/hosts", 0o755), file("etc/hosts/x", 0o644)), []string{"etc 0755", "etc/hosts 0644"}},
		"hostname is a device":             {without([]string{"etc/hostname"}, tar.Header{Name: "etc/hostname", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}), []string{"etc 0755", "etc/hostname 0644"}},
		"/etc is a file":                   {without([]string{"etc"}, file("etc", 0o644)), wholeEtc},
		"/etc leads to itself":             {without([]string{"etc"}, link("etc", "./etc")), wholeEtc},
		"/etc leads round in circles":      {without([]string{"etc"}, link("etc", "a"), link("a", "b/c"), link("b", "a")), wholeEtc},
		"/etc dangles":                     {without([]string{"etc"}, link("etc", "usr/etc")), wholeEtc},
		"/etc leads to a file":             {without([]string{"etc"}, link("etc", "f"), file("f", 0o644)), wholeEtc},
		"/etc leads below a mount point":   {without([]string{"etc"}, link("etc", "/proc/x"), dir("proc/x", 0o755)), wholeEtc},
		"/etc leads into /dev by a link":   {without([]string{"etc"}, link("etc", "/a/b"), link("a", "dev"), dir("dev/b", 0o755)), wholeEtc},
		"/etc leads elsewhere":             {without([]string{"etc"}, link("etc", "/usr/etc"), dir("usr", 0o750), dir("usr/etc", 0o711), file("usr/etc/hosts", 0o600)), slices.Concat([]string{"usr 0750", "usr/etc 0711"}, below("usr/etc/", "hostname 0644", "mtab 0777", "resolv.conf 0644"))},
		"/etc leads up and is the root":    {without([]string{"etc"}, link("etc", "../../..")), []string{"hostname 0644", "hosts 0644", "mtab 0777", "resolv.conf 0644"}},
		"/etc leads up, then into a place": {without([]string{"etc"}, link("etc", "../../../a/../../b"), dir("a", 0o755), dir("b", 0o700)), append([]string{"b 0700"}, below("b/", etcFiles...)...)},
	} {
		t.Run(name, func(t *testing.T) {
			base := testenv.TempDir(t)
			noLeaks(t, base)
			s := newSite(t, rootfs.Erofs, base)
			l := storeLayer(t, s.root, tc.image...)
			image := mountAll(t, s.driver, l)
			stage := filepath.Join(base, "init")
			require.NoError(t, os.Mkdir(stage, 0o700))

			require.NoError(t, rootfs.BuildInit(stage, viewMount(t, image)))

			lower, err := rootfs.OpenInit(stage)
			require.NoError(t, err)
			if tc.want == nil {
				require.Nil(t, lower)
				s.release(t, l)
				return
			}
			defer lower.Close()
			require.Equal(t, tc.want, tree(t, sys.FDPath(lower)))
			checkInitOnImage(t, append([]*os.File{lower}, image...))
			s.release(t, l)
		})
	}
}

// checkInitOnImage checks what a container relies on: real directories and files to mount on, and
// that nothing else of the image looks different.
func checkInitOnImage(t *testing.T, lowers []*os.File) {
	t.Helper()
	merged, image := view(t, lowers), view(t, lowers[1:])
	for _, name := range []string{"dev", "dev/pts", "dev/shm", "proc", "sys"} {
		info, err := os.Lstat(filepath.Join(merged, name))
		require.NoError(t, err)
		require.True(t, info.IsDir(), name)
	}
	etc, err := os.OpenRoot(merged)
	require.NoError(t, err)
	defer etc.Close()
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"} {
		where := inImage(t, etc, name)
		info, err := etc.Lstat(where)
		require.NoError(t, err)
		require.Equal(t, filepath.Base(name) == "mtab", !info.Mode().IsRegular(), "%s has type %v", name, info.Mode())
	}
	stays := slices.DeleteFunc(listing(t, image), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return isMountPoint(name) || strings.HasPrefix(name, "etc/hosts/")
	})
	require.Subset(t, listing(t, merged), stays)
}

func isMountPoint(name string) bool {
	return slices.Contains([]string{
		"dev", "dev/pts", "dev/shm", "proc", "sys", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf",
	}, name)
}

// inImage gives the name of a file in /etc with /etc resolved as a process in the image would.
func inImage(t *testing.T, root *os.Root, name string) string {
	t.Helper()
	target, err := root.Readlink("etc")
	if err != nil {
		return name
	}
	clean := filepath.Join("/", target) // none of the test's links that resolve has a link inside
	return filepath.Join(strings.TrimPrefix(clean, "/"), filepath.Base(name))
}

func TestInitLayerKeepsMetadataOfSharedDirectories(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s site) {
		etc := withXattrs(dir("etc", 0o2711), "user.a", "b", "trusted.overlay.opaque", "y", "trusted.overlay.redirect", "/root")
		etc.Uid, etc.Gid = 1234, 5678
		root := withXattrs(dir(".", 0o1755), "user.r", "s")
		root.Uid = 99
		l := storeLayer(t, s.root, root, etc, file("etc/passwd", 0o644), dir("root", 0o700), file("root/secret", 0o600))
		image := mountAll(t, s.driver, l)
		old := umask(t, 0o077)
		defer old()
		stage := filepath.Join(s.base, "init")
		require.NoError(t, os.Mkdir(stage, 0o700))
		require.NoError(t, rootfs.BuildInit(stage, viewMount(t, image)))
		lower, err := rootfs.OpenInit(stage)
		require.NoError(t, err)
		defer lower.Close()

		merged, alone := view(t, append([]*os.File{lower}, image...)), view(t, image)
		require.Subset(t, listing(t, merged), listing(t, alone))
		require.Contains(t, tree(t, merged), "etc/hosts 0644", "whatever the umask")
		require.NoFileExists(t, filepath.Join(merged, "etc", "secret"))
		s.release(t, l)
	})
}

func TestBuildInitNeedsEmptyStage(t *testing.T) {
	s, lowers := newImage(t, rootfs.Dirs)
	stage := filepath.Join(s.base, "init")
	require.NoError(t, os.MkdirAll(filepath.Join(stage, "root"), 0o700))
	require.ErrorIs(t, rootfs.BuildInit(stage, viewMount(t, lowers)), os.ErrExist)
}
