package tartest

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// Mend gives a copy of a tar in which every header has the right checksum, so that what a fuzzer did
// to one is read at all.
func Mend(tar []byte) []byte {
	tar = slices.Clone(tar)
	for at := 0; at+blockSize <= len(tar); {
		header := tar[at : at+blockSize]
		at += blockSize
		if bytes.Equal(header, make([]byte, blockSize)) {
			continue
		}
		Seal(header)
		if strings.IndexByte("123456", header[AtType]) >= 0 {
			continue
		}
		for more := header[AtType] == 'S' && header[482] != 0; more && at+blockSize <= len(tar); at += blockSize {
			more = tar[at+504] != 0
		}
		digits := strings.Trim(string(header[AtSize:AtTime]), " \x00")
		if size, err := strconv.ParseInt(digits, 8, 64); err == nil && size > 0 && size <= int64(len(tar)) {
			at += (int(size) + blockSize - 1) &^ (blockSize - 1)
		}
	}
	return tar
}
