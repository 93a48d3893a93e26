package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDocument is wrapped by every error about a config, manifest or index that cannot be trusted.
var ErrDocument = errors.New("invalid image document")

// Bounds on documents read from outside. Registries refuse manifests above 4 MiB too
// (OCI distribution-spec, "Pushing Manifests").
const (
	MaxManifestSize = 4 << 20
	MaxConfigSize   = 16 << 20

	maxDepth       = 100
	maxLayers      = 10_000
	maxDescriptors = 10_000
)

// decode reads a hostile JSON document into v. A document in which another parser could see other
// values than this one (a key twice, or, where the keys are ours, in two spellings) is refused.
func decode(raw []byte, v any, limit int) error {
	if len(raw) > limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrDocument, len(raw), limit)
	}
	if err := checkKeys(raw); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return nil
}

// scope is one JSON object or array that is being walked.
type scope struct {
	object   bool
	fold     bool // keys differing in case only are duplicates, as encoding/json matches them
	keys     map[string]struct{}
	key      string // the key whose value is being read; of an array: the key it stands under
	wantsKey bool
}

func checkKeys(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var stack []scope
	for {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF) && len(stack) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		if stack, err = step(stack, token); err != nil {
			return err
		}
	}
}

func step(stack []scope, token json.Token) ([]scope, error) {
	var top *scope
	if len(stack) > 0 {
		top = &stack[len(stack)-1]
	}
	if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
		return stack[:len(stack)-1], nil
	}
	if top != nil && top.object && top.wantsKey {
		key, _ := token.(string)
		top.wantsKey = false
		return stack, top.add(key)
	}
	under := ""
	if top != nil {
		under, top.wantsKey = top.key, top.object
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return stack, nil
	}
	if len(stack) == maxDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	next := scope{object: delim == '{', key: under}
	if next.object {
		next.wantsKey, next.keys = true, make(map[string]struct{})
		next.fold = len(stack) == 0 || structKey(under)
	}
	return append(stack, next), nil
}

func (s *scope) add(key string) error {
	s.key = key
	seen := key
	if s.fold {
		seen = strings.ToLower(key)
	}
	if _, dup := s.keys[seen]; dup {
		return fmt.Errorf("key %q twice", clip(key))
	}
	s.keys[seen] = struct{}{}
	return nil
}

// structKey reports whether the objects under key have keys that are fixed by a specification; in
// others (labels, annotations, volumes) "A" and "a" are two names.
func structKey(key string) bool {
	switch strings.ToLower(key) {
	case "config", "container_config", "rootfs", "history", "layers", "manifests", "platform", "subject", "healthcheck":
		return true
	default:
		return false
	}
}
