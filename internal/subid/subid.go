// Package subid reads which numbers of users and groups somebody may give to others: subuid(5), subgid(5).
package subid

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The files.
const (
	Users  = "/etc/subuid"
	Groups = "/etc/subgid"
)

// Range are Size numbers from First on.
type Range struct{ First, Size uint32 }

// End is the number behind the last.
func (r Range) End() uint64 { return uint64(r.First) + uint64(r.Size) }

// Ranges gives those that a file has for a user, who may be called by several names, or by the number. A
// file that is not there has none.
func Ranges(path string, names ...string) ([]Range, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ranges []Range
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(fields) != 3 || !slices.Contains(names, fields[0]) {
			continue
		}
		first, err := strconv.ParseUint(fields[1], 10, 32)
		size, sizeErr := strconv.ParseUint(fields[2], 10, 32)
		if err = errors.Join(err, sizeErr); err != nil || size == 0 || first+size > 1<<32-1 {
			return nil, fmt.Errorf("%s: bad range %q", path, s.Text())
		}
		ranges = append(ranges, Range{uint32(first), uint32(size)})
	}
	return ranges, s.Err()
}
