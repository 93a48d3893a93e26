// Package sealed encodes records: JSON objects that end with a seal, a member "crc32c" with the CRC-32C
// of the object as it was without that member. Nothing else says whether a time, or the settings of a
// container, are what was written. docs/format.md has the form.
package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

var errSeal = errors.New("it does not have the checksum that it should have")

const (
	sealStart  = `,"crc32c":"`
	sealEnd    = "\"}\n"
	sealLength = len(sealStart) + 8 + len(sealEnd)
)

// Encode encodes a record. v must be a struct that is encoded with at least one member.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := castagnoli(data)
	return fmt.Appendf(data[:len(data)-1], "%s%08x%s", sealStart, sum, sealEnd), nil
}

// Decode decodes a record. One that never had a seal is taken as it is.
func Decode(data []byte, v any) error {
	if body, seal := cutSeal(data); body != nil && string(seal) != fmt.Sprintf("%08x", castagnoli(body)) {
		return errSeal
	}
	return json.Unmarshal(data, v)
}

// Check says whether data is a record as Encode made it.
func Check(data []byte) error {
	body, seal := cutSeal(data)
	if body == nil || string(seal) != fmt.Sprintf("%08x", castagnoli(body)) {
		return errSeal
	}
	return nil
}

// cutSeal gives what a record was before it was sealed, and the checksum; nil if it has no seal.
func cutSeal(data []byte) (body, seal []byte) {
	at := len(data) - sealLength
	if at < 1 || !bytes.HasPrefix(data[at:], []byte(sealStart)) || !bytes.HasSuffix(data, []byte(sealEnd)) {
		return nil, nil
	}
	seal = data[at+len(sealStart) : len(data)-len(sealEnd)]
	return append(bytes.Clone(data[:at]), '}'), seal
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
