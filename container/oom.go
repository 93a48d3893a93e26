package container

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// OOMKills gives how many processes of a container the kernel has killed because its cgroup had no
// memory left. path is the specification's Linux.CgroupsPath. (memory.events of
// Documentation/admin-guide/cgroup-v2.rst, memory.oom_control of cgroup-v1/memory.rst.)
func OOMKills(path string) (uint64, error) {
	h, err := findHierarchies()
	if err != nil {
		return 0, err
	}
	defer h.close()
	c, err := findCgroup(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	file := c.dir + "/memory.events"
	if dir := c.legacyDir("memory"); dir != "" {
		file = dir + "/memory.oom_control"
	} else if c.dir == "" {
		return 0, nil
	}
	text, err := os.ReadFile(file)
	if err = goneOr(err); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return strconv.ParseUint(n, 10, 64)
		}
	}
	return 0, nil
}
