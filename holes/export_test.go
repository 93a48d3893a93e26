package holes

import "encoding/binary"

// WithChecksum gives b with the right checksum at its end.
func WithChecksum(b []byte) []byte {
	if len(b) < sumSize {
		return b
	}
	body := b[:len(b)-sumSize]
	return binary.LittleEndian.AppendUint32(append([]byte{}, body...), checksum(body))
}
