package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/internal/sys"
)

// maxUserFile bounds what is read of an image's /etc/passwd or /etc/group.
const maxUserFile = 8 << 20

// LookupUser gives the IDs, the supplementary groups and the home directory of what an image's
// config or a command line calls a user: "", "name", "uid", "name:group", "uid:gid" and so on, each
// by name or number. root is the image's file system; /etc/passwd and /etc/group are looked up
// inside it whatever links it has, and may be missing. Numbers are at most 2147483647.
func LookupUser(root *os.File, name string) (u specs.User, home string, err error) {
	passwd, err := readUserFile(root, "etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := readUserFile(root, "etc/group")
	if err != nil {
		return u, "", err
	}
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return u, "", fmt.Errorf("user %q: %w", name, err)
	}
	// The library checks the numbers it is given, not those in the files.
	ids := append([]int{found.Uid, found.Gid}, found.Sgids...)
	for _, id := range ids {
		if id < 0 || id > maxID {
			return u, "", fmt.Errorf("user %q: %w: ID %d of the image's passwd or group file", name, user.ErrRange, id)
		}
	}
	u.UID, u.GID = uint32(found.Uid), uint32(found.Gid)
	// The own group is among the supplementary ones, as in Docker: a program that changes its group
	// does not get past a file which denies that one something (CVE-2022-36109).
	u.AdditionalGids = []uint32{u.GID}
	for _, id := range found.Sgids {
		if uint32(id) != u.GID {
			u.AdditionalGids = append(u.AdditionalGids, uint32(id))
		}
	}
	return u, found.Home, nil
}

// LookupGroups gives the IDs of groups by name or number, as [LookupUser] does.
func LookupGroups(root *os.File, names []string) ([]uint32, error) {
	if len(names) == 0 {
		return nil, nil
	}
	group, err := readUserFile(root, "etc/group")
	if err != nil {
		return nil, err
	}
	ids, err := user.GetAdditionalGroups(names, group)
	if err != nil {
		return nil, err
	}
	var gids []uint32
	for _, id := range ids {
		if id < 0 || id > maxID {
			return nil, fmt.Errorf("groups %q: %w: ID %d of the image's group file", names, user.ErrRange, id)
		}
		gids = append(gids, uint32(id))
	}
	return gids, nil
}

// maxID is the largest user or group ID Docker takes.
const maxID = 1<<31 - 1

// readUserFile reads a file of the image. One that is not there is empty; a device, a fifo or a
// file without end is an error.
func readUserFile(root *os.File, name string) (io.Reader, error) {
	f, err := sys.OpenInRoot(root, name, sys.OpenAny)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return bytes.NewReader(nil), nil
	}
	if err != nil {
		return nil, fmt.Errorf("/%s of the image: %w", name, err)
	}
	node, err := sys.StatNode(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	if node.Type != sys.TypeRegular {
		return nil, fmt.Errorf("/%s of the image is no regular file", name)
	}
	// Opened again for reading, without waiting should it have become a fifo.
	if f, err = sys.OpenInRoot(root, name, sys.OpenRead); err != nil {
		return nil, fmt.Errorf("/%s of the image: %w", name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fmt.Errorf("/%s of the image: %w", name, err)
	}
	if len(text) > maxUserFile {
		return nil, fmt.Errorf("/%s of the image is larger than %d MiB", name, maxUserFile>>20)
	}
	return bytes.NewReader(text), nil
}
