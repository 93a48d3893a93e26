package tarfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/layer/tarfile"
)

// binaryACL is the kernel's form of entries of tag, permissions and ID.
func binaryACL(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const nobody = 1<<32 - 1

func TestACLForms(t *testing.T) {
	want := binaryACL([3]uint32{1, 7, nobody}, [3]uint32{2, 6, 0}, [3]uint32{2, 4, 1000}, [3]uint32{4, 5, nobody},
		[3]uint32{8, 1, 50}, [3]uint32{0x10, 7, nobody}, [3]uint32{0x20, 0, nobody})
	for name, text := range map[string]string{
		"GNU tar":          "user::rwx\nuser:root:rw-\nuser:1000:r--\ngroup::r-x\ngroup:50:--x\nmask::rwx\nother::---\n",
		"star":             "user::rwx,user:root:rw-:0,user:lisa:r--:1000,group::r-x,group:staff:--x:50,mask::rwx,other::---",
		"bsdtar":           "user::rwx,group::r-x,other::---,user:root:rw-:0,user:lisa:r--:1000,group:staff:--x:50,mask::rwx",
		"short":            "u::rwx,u:0:rw,u:1000:r,g::rx,g:50:x,m::rwx,o::-",
		"Solaris":          "user::rwx,user:0:rw-,user:1000:r--,group::r-x,group:50:--x,mask:rwx,other:---",
		"with comments":    "user::rwx\nuser:0:rw- #effective:r--\n# a comment\nuser:1000:r--\ngroup::r-x\ngroup:50:--x\nmask::rwx\nother::---",
		"owner of entries": "user::rwx,user:root:rw-,user:lisa:r--,group::r-x,group:staff:--x,mask::rwx,other::---",
	} {
		t.Run(name, func(t *testing.T) {
			owner := join(pax("uname", "lisa", "uid", "1000", "gname", "staff", "gid", "50"), file("owned", ""))
			data := join(owner, pax("SCHILY.acl.access", text), file("f", ""), end())
			m := readAll(t, data)[1]
			if len(m.Xattrs) != 1 || m.Xattrs[0].Name != tarfile.XattrACLAccess || !bytes.Equal(m.Xattrs[0].Value, want) {
				t.Errorf("got %q, want %q", m.Xattrs, want)
			}
			if m.Mode != 0o770 {
				t.Errorf("mode %o", m.Mode)
			}
		})
	}
}

// TestACLOwnerLater has the ACL before the entry that tells whose number it means.
func TestACLOwnerLater(t *testing.T) {
	data := join(
		pax("SCHILY.acl.access", "user::rwx,group::r-x,group:adm:r--,mask::r-x,other::---"), file("log", ""),
		pax("gname", "adm", "gid", "4"), file("later", ""), end())
	tr := tarfile.NewReader(bytes.NewReader(data), tarfile.Limits{})
	h, err := tr.Next()
	must(t, err)
	if len(h.ACLs) != 1 || len(h.Xattrs) != 0 || h.Mode != 0o750 {
		t.Fatalf("%+v", h)
	}
	acl := h.ACLs[0]
	if _, err := tr.ResolveACL(acl); !errors.Is(err, tarfile.ErrUnknownOwner) || !strings.Contains(err.Error(), `"adm"`) {
		t.Errorf("too early: %v", err)
	}
	_, err = tr.Next()
	must(t, err)
	x, err := tr.ResolveACL(acl)
	want := binaryACL([3]uint32{1, 7, nobody}, [3]uint32{4, 5, nobody}, [3]uint32{8, 4, 4}, [3]uint32{0x10, 5, nobody}, [3]uint32{0x20, 0, nobody})
	if err != nil || !bytes.Equal(x.Value, want) {
		t.Errorf("got %q, %v, want %q", x.Value, err, want)
	}
}

func TestACLWhereNoneBelongs(t *testing.T) {
	minimal, extended := "user::rw-,group::r--,other::---", "user::rw-,group::r--,group:5:r--,mask::r--,other::---"
	dir := block(map[int]string{atName: "d/", atType: "5", atMagic: ustar})
	link := block(map[int]string{atName: "l", atType: "2", atLinkname: "x", atMagic: ustar})
	for name, tt := range map[string]struct {
		data []byte
		want []string
		mode uint32
	}{
		"says no more than the mode": {join(pax("SCHILY.acl.access", minimal), file("f", "")), nil, 0o640},
		"default of a file":          {join(pax("SCHILY.acl.default", minimal), file("f", "")), nil, 0o644},
		"default of a directory":     {join(pax("SCHILY.acl.default", minimal), dir), []string{tarfile.XattrACLDefault}, 0o644},
		"of a link":                  {join(pax("SCHILY.acl.access", extended, "SCHILY.acl.default", extended), link), nil, 0o644},
		"both of a directory": {
			join(pax("SCHILY.acl.access", extended, "SCHILY.acl.default", minimal), dir),
			[]string{tarfile.XattrACLAccess, tarfile.XattrACLDefault},
			0o640,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := readAll(t, join(tt.data, end()))[0]
			var names []string
			for _, x := range m.Xattrs {
				names = append(names, x.Name)
			}
			if !reflect.DeepEqual(names, tt.want) || m.Mode != tt.mode {
				t.Errorf("got %q, mode %o, want %q, %o", names, m.Mode, tt.want, tt.mode)
			}
		})
	}
}

// TestACLAgainstKernel has GNU tar store what setfacl set, and compares with
// what the kernel says.
func TestACLAgainstKernel(t *testing.T) {
	testenv.RequireTool(t, "setfacl")
	dir := testenv.TempDir(t)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	for _, args := range [][]string{
		{"-m", "u:4242:rwx,g:4343:r,o::-", "f"},
		{"-m", "u:4242:rwx,d:u:4242:r,d:g:root:rw", "d"},
	} {
		cmd := exec.CommandContext(t.Context(), "setfacl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			testenv.Unmet(t, "no access control lists in %s: setfacl: %v: %s", dir, err, out)
		}
	}
	members := readAll(t, gnuTar(t, dir, "--format=posix", "--acls", "--xattrs", "--xattrs-include=*"))
	compared := 0
	for _, m := range members {
		for _, x := range m.Xattrs {
			value := make([]byte, 1024)
			n, err := syscall.Getxattr(filepath.Join(dir, m.Name), x.Name, value)
			must(t, err)
			if !bytes.Equal(value[:n], x.Value) {
				t.Errorf("%s %s: got %q, want %q", m.Name, x.Name, x.Value, value[:n])
			}
			compared++
		}
	}
	if compared != 3 {
		t.Errorf("compared %d ACLs, want 3", compared)
	}
}
