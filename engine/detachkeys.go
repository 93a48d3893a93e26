package engine

import (
	"bytes"
	"fmt"
	"strings"
)

// defaultDetachKeys are Docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads the keys to leave a container with, in Docker's form: letters, or ctrl- and one of
// a-z @ [ \ ] ^ _, with commas between. "" is ctrl-p,ctrl-q.
func ParseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		text = defaultDetachKeys
	}
	var keys []byte
	for key := range strings.SplitSeq(text, ",") {
		control, found := strings.CutPrefix(key, "ctrl-")
		switch {
		case !found && len(key) == 1:
			keys = append(keys, key[0])
		case found && len(control) == 1 && (control[0] >= 'a' && control[0] <= 'z' || strings.ContainsAny(control, "@[\\]^_")):
			keys = append(keys, control[0]&0x1f)
		default:
			return nil, fmt.Errorf("%w: detach keys %q: use letters and ctrl-LETTER, with commas between", ErrOption, text)
		}
	}
	return keys, nil
}

// detachFilter looks for keys in what is typed.
type detachFilter struct {
	keys []byte // none: nothing is looked for
	seen int    // how many of them came last
}

// pass gives what of the input is for the container: the keys are not, nor a beginning of them as long as it
// may become all. leave says that they were typed.
func (f *detachFilter) pass(input []byte) (output []byte, leave bool) {
	if len(f.keys) == 0 {
		return input, false
	}
	for _, b := range input {
		if b == f.keys[f.seen] {
			if f.seen++; f.seen == len(f.keys) {
				return output, true
			}
			continue
		}
		// What was held back is the container's, but for the longest end of it that is a beginning again.
		typed := append(bytes.Clone(f.keys[:f.seen]), b)
		for f.seen = min(len(typed), len(f.keys)-1); f.seen > 0 && !bytes.HasSuffix(typed, f.keys[:f.seen]); {
			f.seen--
		}
		output = append(output, typed[:len(typed)-f.seen]...)
	}
	return output, false
}
