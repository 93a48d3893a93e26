package image

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// ErrDigest is wrapped by every error about a malformed or unsupported digest.
var ErrDigest = errors.New("invalid digest")

// SHA256 is the algorithm of every digest that tarn makes.
const SHA256 = "sha256"

// Digest names content by its hash, as "sha256:" and 64 lower-case hexadecimal digits
// (OCI image-spec, descriptor.md, "Digests"). sha384 and sha512 are understood too.
//
// Only a Digest that came from ParseDigest, Validate or this package's own hashing may be used
// as part of a path.
type Digest string

// ParseDigest checks that s is a digest with a known algorithm and the right length.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	return d, d.Validate()
}

// DigestBytes gives the sha256 digest of b.
func DigestBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(SHA256 + ":" + hex.EncodeToString(sum[:]))
}

// DigestSum makes a digest of the sum of h, a sha256 hash.
func DigestSum(h hash.Hash) Digest {
	return Digest(SHA256 + ":" + hex.EncodeToString(h.Sum(nil)))
}

// Validate reports whether the digest is well formed.
func (d Digest) Validate() error {
	algorithm, encoded, found := strings.Cut(string(d), ":")
	size := digestSize(algorithm)
	switch {
	case !found || algorithm == "":
		return fmt.Errorf("%w: %q is not of the form sha256:…", ErrDigest, clip(string(d)))
	case size == 0:
		return fmt.Errorf("%w: %q: unknown algorithm %q", ErrDigest, clip(string(d)), clip(algorithm))
	case len(encoded) != 2*size || !isLowerHex(encoded):
		return fmt.Errorf("%w: %q: want %d lower-case hexadecimal digits", ErrDigest, clip(string(d)), 2*size)
	}
	return nil
}

// Algorithm gives the part before the colon.
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(d), ":")
	return algorithm
}

// Hex gives the part after the colon.
func (d Digest) Hex() string {
	_, encoded, _ := strings.Cut(string(d), ":")
	return encoded
}

// Short gives the first 12 hexadecimal digits, which is how Docker shows an ID.
func (d Digest) Short() string {
	encoded := d.Hex()
	return encoded[:min(12, len(encoded))]
}

// String gives the whole digest.
func (d Digest) String() string { return string(d) }

// NewHash gives a fresh hash of the digest's algorithm.
func (d Digest) NewHash() (hash.Hash, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return NewHash(d.Algorithm())
}

// NewHash gives a fresh hash of the algorithm.
func NewHash(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case SHA256:
		return sha256.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha512":
		return sha512.New(), nil
	default:
		return nil, fmt.Errorf("%w: unknown algorithm %q", ErrDigest, clip(algorithm))
	}
}

// Matches reports whether h, made by NewHash and fed the content, has the digest's sum.
func (d Digest) Matches(h hash.Hash) bool {
	return hex.EncodeToString(h.Sum(nil)) == d.Hex()
}

// Of gives the digest of h's sum under the algorithm of d, for naming what was really found.
func (d Digest) Of(h hash.Hash) Digest {
	return Digest(d.Algorithm() + ":" + hex.EncodeToString(h.Sum(nil)))
}

// digestSize gives the length of an algorithm's sum in bytes, or 0 if it is not known.
func digestSize(algorithm string) int {
	switch algorithm {
	case SHA256:
		return sha256.Size
	case "sha384":
		return sha512.Size384
	case "sha512":
		return sha512.Size
	default:
		return 0
	}
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

// clip keeps hostile text in an error message short.
func clip(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
