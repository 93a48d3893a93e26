package layer_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tarnfs/tarn/internal/tartest"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// TestHostileTars are refused with the name of the entry that is to blame, by Scan and by Extract,
// which makes nothing.
func TestHostileTars(t *testing.T) {
	f := aFile("f", "x")
	sparse := func(size, segments string) []byte {
		return join(pax("path", "victim", "GNU.sparse.size", size, "GNU.sparse.map", segments), aFile("cut", "x"))
	}
	sized := func(size string) []byte { return aNode("victim", '0', map[int]string{tartest.AtSize: size}) }
	for name, tt := range map[string]struct {
		tar  []byte
		want error
		says string // with the entry's name, if that is not victim
	}{
		"up":                       {aFile("../victim", ""), layer.ErrUnsafe, `".." in the name`},
		"up, later":                {aFile("a/../victim", ""), layer.ErrUnsafe, `".." in the name`},
		"up at the end":            {aDir("victim/.."), layer.ErrUnsafe, `".." in the name`},
		"absolute":                 {aFile("/etc/victim", ""), layer.ErrUnsafe, "absolute"},
		"only a slash":             {aDir("/"), layer.ErrUnsafe, `tar entry "/": unsafe entry: an absolute name`},
		"up in a whiteout":         {aFile("../.wh.victim", ""), layer.ErrUnsafe, `".." in the name`},
		"the root is a link":       {aSymlink("./", "/etc"), layer.ErrUnsafe, `/": unsafe entry: the root is not a directory`},
		"the root is a hard link":  {join(f, aLink("./", "f")), layer.ErrUnsafe, `/": unsafe entry: the root is not a directory`},
		"below a link":             {join(aSymlink("l", "/etc"), aFile("l/victim", "")), layer.ErrUnsafe, `below the symbolic link "l"`},
		"below a link, deeper":     {join(aDir("d"), aSymlink("d/l", ".."), aDir("d/l/a/victim")), layer.ErrUnsafe, `below the symbolic link "d/l"`},
		"below a file":             {join(f, aFile("f/victim", "")), layer.ErrUnsafe, `below "f", which is not a directory`},
		"below a fifo":             {join(aNode("p", '6', nil), aFile("p/victim", "")), layer.ErrUnsafe, `below "p"`},
		"below a hard link":        {join(aSymlink("l", "/etc"), aLink("h", "l"), aFile("h/victim", "")), layer.ErrUnsafe, `below the symbolic link "h"`},
		"below what will be":       {join(aLink("later", "z"), aFile("later/victim", ""), aFile("z", "")), layer.ErrUnsafe, `below "later"`},
		"a whiteout below a link":  {join(aSymlink("l", "/etc"), aFile("l/.wh.victim", "")), layer.ErrUnsafe, `below the symbolic link "l"`},
		"below a whiteout":         {aFile("d/.wh.x/victim", ""), layer.ErrUnsafe, `below the whiteout "d/.wh.x"`},
		"a whiteout of nothing":    {aFile("victim/.wh.", ""), layer.ErrUnsafe, "whiteout"},
		"a whiteout of dot":        {aFile("victim/.wh..", ""), layer.ErrUnsafe, "whiteout"},
		"a whiteout of two dots":   {aFile("victim/.wh...", ""), layer.ErrUnsafe, "whiteout"},
		"a link to nothing":        {join(aSymlink("victim", "x"), aSymlink("victim", "")), layer.ErrUnsafe, "a symbolic link to nothing"},
		"hard link up":             {aLink("victim", "../etc/passwd"), layer.ErrLink, `to "../etc/passwd"`},
		"hard link to absolute":    {aLink("victim", "/etc/passwd"), layer.ErrLink, "absolute"},
		"hard link through a link": {join(aSymlink("l", "/etc"), aLink("victim", "l/passwd")), layer.ErrLink, "symbolic link"},
		"hard link through a file": {join(f, aLink("victim", "f/x")), layer.ErrLink, "not a directory"},
		"hard link to nowhere":     {aLink("victim", "gone"), layer.ErrLink, "not in this layer"},
		"hard link to a directory": {join(aDir("d"), aLink("victim", "d")), layer.ErrLink, "it is a directory"},
		"hard link to the root":    {aLink("victim", "./"), layer.ErrLink, "it is a directory"},
		"hard link to no name":     {aLink("victim", ""), layer.ErrLink, "it is a directory"},
		"hard link to a later dir": {join(aLink("victim", "d"), aDir("d")), layer.ErrLink, "it is a directory"},
		"later through a link":     {join(aLink("victim", "d/x"), aSymlink("d", "/etc")), layer.ErrLink, "symbolic link"},
		"hard link to itself":      {aLink("victim", "./victim"), layer.ErrLink, "the link itself"},
		"itself, although there":   {join(aFile("victim", ""), aLink("victim", "victim")), layer.ErrLink, "the link itself"},
		"hard link to a whiteout":  {join(aFile(".wh.x", ""), aLink("victim", ".wh.x")), layer.ErrLink, "not in this layer"},
		"two in a loop":            {join(aLink("victim", "b"), aLink("b", "victim")), layer.ErrLink, "loop"},
		"three in a loop":          {join(aLink("victim", "x"), aLink("x", "y"), aLink("y", "victim")), layer.ErrLink, "loop"},
		"into a loop":              {join(aLink("victim", "x"), aLink("x", "y"), aLink("y", "x")), layer.ErrLink, ""},
		"unknown type":             {aNode("victim", 'Z', nil), layer.ErrUnsupported, "type 'Z'"},
		"part of a volume":         {aNode("victim", 'M', nil), layer.ErrUnsupported, "type 'M'"},
		"device number":            {join(pax("SCHILY.devmajor", "4096"), aDevice("victim", '3', 0, 0)), layer.ErrUnsupported, "4096:0"},

		"size is no number":     {sized("size"), tarfile.ErrMalformed, "size"},
		"size is negative":      {sized(strings.Repeat("\xff", 12)), tarfile.ErrMalformed, "size"},
		"size of 96 bits":       {sized("\x80" + strings.Repeat("\x01", 11)), tarfile.ErrMalformed, "64 bits"},
		"size of 63 bits":       {sized(tartest.Base256(1<<63-1, 12)), tarfile.ErrMalformed, "out of range"},
		"size near 63 bits":     {sized(tartest.Base256(1<<63-1-4096, 12)), layer.ErrLimit, "a file of"},
		"all octal digits":      {sized("777777777777"), tarfile.ErrTruncated, "contents"},
		"PAX size of 65 bits":   {join(pax("path", "victim", "size", "18446744073709551616"), f), tarfile.ErrMalformed, "size"},
		"PAX size, negative":    {join(pax("path", "victim", "size", "-1"), f), tarfile.ErrMalformed, "size"},
		"PAX size of 63 bits":   {join(pax("path", "victim", "size", "9223372036854775807"), f), tarfile.ErrMalformed, "out of range"},
		"map overflows":         {sparse("9223372036854775807", "9223372036854775807,1"), tarfile.ErrMalformed, "segment"},
		"map overlaps":          {sparse("100", "0,1,0,1"), tarfile.ErrMalformed, "segment"},
		"map is unsorted":       {sparse("100", "50,1,0,1"), tarfile.ErrMalformed, "segment"},
		"map is negative":       {sparse("100", "-5,1"), tarfile.ErrMalformed, "-5"},
		"map past the end":      {sparse("100", "100,1"), tarfile.ErrMalformed, "segment"},
		"map of more than is":   {sparse("100", "0,50"), tarfile.ErrMalformed, "stored"},
		"map of a huge file":    {sparse("9223372036854775807", "0,1"), layer.ErrLimit, "a file of"},
		"xattr of 64 KiB":       {join(pax("path", "victim", "SCHILY.xattr.user.a", strings.Repeat("v", 1<<16)), f), layer.ErrLimit, "user.a"},
		"xattr of a long name":  {join(pax("path", "victim", "SCHILY.xattr.user."+strings.Repeat("n", 251), "v"), f), layer.ErrLimit, "user.n"},
		"xattrs of 200 KB":      {join(pax("path", "victim", "SCHILY.xattr.user.a", strings.Repeat("v", 65000), "SCHILY.xattr.user.b", strings.Repeat("v", 65000), "SCHILY.xattr.user.c", strings.Repeat("v", 65000), "SCHILY.xattr.user.d", strings.Repeat("v", 65000)), f), layer.ErrLimit, "extended attributes"},
		"ACL of unknown owners": {join(pax("path", "victim", "SCHILY.acl.access", "user::rw-,user:nobody here:r--,group::r--,mask::r--,other::r--"), f), tarfile.ErrUnknownOwner, "nobody here"},
		"a name of 256 bytes":   {join(pax("path", "victim/"+strings.Repeat("n", 256)), f), layer.ErrLimit, "a component of 256 bytes"},
		"a name of 4201 bytes":  {join(pax("path", strings.Repeat("victim/", 600)+"f"), f), layer.ErrLimit, "a name of 4201 bytes"},
		"a target of 4096":      {join(pax("path", "victim", "linkpath", strings.Repeat("t", 4096)), aSymlink("s", "t")), layer.ErrLimit, "a link target of 4096"},
		"a header of 4 MiB":     {join(ext("x", strings.Repeat("\x00", 1+4<<20)), f), layer.ErrLimit, `"ext": limit exceeded: an extended header`},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, r := range map[string]io.Reader{"at offsets": bytes.NewReader(tt.tar), "as a stream": io.MultiReader(bytes.NewReader(tt.tar))} {
				_, err := layer.Scan(r, layer.Limits{})
				refused(t, kind, err, tt.want, tt.says)
			}
			dir := openFile(t, testenv.TempDir(t))
			err := layer.Extract(t.Context(), plain(t, openFile(t, writeTemp(t, tt.tar))), dir, layer.ExtractOptions{})
			refused(t, "extract", err, tt.want, tt.says)
			made, err := os.ReadDir(dir.Name())
			if err != nil || len(made) > 0 {
				t.Errorf("extract made %v, %v", made, err)
			}
		})
	}
}

func refused(t *testing.T, kind string, err, want error, says string) {
	t.Helper()
	switch {
	case !errors.Is(err, want) || !strings.Contains(err.Error(), says):
		t.Errorf("%s: error %q, want %q that says %q", kind, err, want, says)
	case !strings.HasPrefix(err.Error(), "tar ") || !strings.Contains(err.Error()+says, "victim") && !strings.Contains(says, `": `) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: error %q does not name the entry, in one line", kind, err)
	}
}
