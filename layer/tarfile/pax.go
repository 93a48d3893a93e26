package tarfile

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxID is the highest user or group ID; the one above it, -1, means "no one".
const maxID = math.MaxUint32 - 1

const (
	prefixSchilyXattr  = "SCHILY.xattr."
	prefixLibarchive   = "LIBARCHIVE.xattr."
	prefixSparse       = "GNU.sparse."
	keyACLAccess       = "SCHILY.acl.access"
	keyACLDefault      = "SCHILY.acl.default"
	keySparseMajor     = "GNU.sparse.major"
	keySparseMinor     = "GNU.sparse.minor"
	keySparseName      = "GNU.sparse.name"
	keySparseRealSize  = "GNU.sparse.realsize" // 1.0
	keySparseSize      = "GNU.sparse.size"     // 0.0 and 0.1
	keySparseMap       = "GNU.sparse.map"      // 0.1
	keySparseOffset    = "GNU.sparse.offset"   // 0.0, one for each segment
	keySparseNumBytes  = "GNU.sparse.numbytes" // 0.0, one for each segment
	keySparseNumBlocks = "GNU.sparse.numblocks"
)

// parsePAX splits the contents of a PAX header into records of the form
// "LENGTH KEY=VALUE\n", LENGTH counting all of it.
func parsePAX(data []byte) ([]Record, error) {
	var records []Record
	for rest := string(data); rest != ""; {
		digits, _, ok := strings.Cut(rest, " ")
		if !ok || len(digits) > 10 {
			return nil, fmt.Errorf("%w: PAX record without a length", ErrMalformed)
		}
		length, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || int(length) < len(digits)+len(" k=\n") || int(length) > len(rest) {
			return nil, fmt.Errorf("%w: PAX record of length %q", ErrMalformed, digits)
		}
		record := rest[len(digits)+1 : length]
		rest = rest[length:]
		key, value, ok := strings.Cut(record, "=")
		value, ended := strings.CutSuffix(value, "\n")
		if !ok || key == "" || !ended || strings.IndexByte(key, 0) >= 0 {
			return nil, fmt.Errorf("%w: PAX record %.80q", ErrMalformed, record)
		}
		records = append(records, Record{key, value})
	}
	return records, nil
}

// setGlobal takes a 'g' header, whose records hold for all entries behind it. Those
// that belong to one entry by their nature are refused: readers disagree on them.
func (r *Reader) setGlobal(data []byte) error {
	records, err := parsePAX(data)
	if err != nil {
		return err
	}
	for _, rec := range records {
		switch {
		case rec.Key == "path", rec.Key == "linkpath", rec.Key == "size", strings.HasPrefix(rec.Key, prefixSparse):
			return fmt.Errorf("%w: global PAX record %.80q", ErrMalformed, rec.Key)
		case rec.Value == "":
			delete(r.global, rec.Key)
		case isKnownKey(rec.Key):
			if r.global == nil {
				r.global = make(map[string]string)
			}
			r.metadata += int64(len(rec.Key) + len(rec.Value))
			r.global[strings.Clone(rec.Key)] = strings.Clone(rec.Value)
		}
	}
	if r.metadata > r.limits.Metadata { // now, for no entry may ever come
		return r.tooMuchMetadata()
	}
	return nil
}

func isKnownKey(key string) bool {
	switch key {
	case "uid", "gid", "uname", "gname", "mtime", "SCHILY.devmajor", "SCHILY.devminor", keyACLAccess, keyACLDefault:
		return true
	}
	return strings.HasPrefix(key, prefixSchilyXattr) || strings.HasPrefix(key, prefixLibarchive)
}

// attributes is what PAX records say that does not go into a Header as it is.
type attributes struct {
	stored int64 // bytes of contents in the archive
	sparse *sparseInfo

	aclAccess, aclDefault string
	weak, strong          []Xattr // of two with the same name the strong one counts
}

// applyPAX overrides r.header with the records of the global headers and of the
// entry's own one. A record with an empty value of its own brings back what the
// header block says, except for an extended attribute, which may be empty.
func (r *Reader) applyPAX(own []Record, attrs *attributes) error {
	for _, key := range slices.Sorted(maps.Keys(r.global)) {
		if !slices.ContainsFunc(own, func(rec Record) bool { return rec.Key == key }) {
			if err := r.applyRecord(Record{key, r.global[key]}, attrs); err != nil {
				return err
			}
			r.metadata += int64(len(r.global[key])) // a long one costs time with every entry
		}
	}
	for _, rec := range own {
		if err := r.applyRecord(rec, attrs); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) applyRecord(rec Record, attrs *attributes) error {
	var err error
	h := &r.header
	switch {
	case strings.HasPrefix(rec.Key, prefixSchilyXattr):
		name := strings.Clone(unescapeXattr(rec.Key[len(prefixSchilyXattr):]))
		attrs.strong = append(attrs.strong, Xattr{name, []byte(rec.Value)})
		err = r.checkXattrs(attrs, name)
	case strings.HasPrefix(rec.Key, prefixLibarchive):
		var x Xattr
		if x, err = decodeLibarchive(rec.Key[len(prefixLibarchive):], rec.Value); err == nil {
			attrs.weak = append(attrs.weak, x)
			err = r.checkXattrs(attrs, x.Name)
		}
	case rec.Value == "":
	case strings.HasPrefix(rec.Key, prefixSparse):
		err = attrs.sparse.record(rec, r.limits.Segments)
	default:
		err = applyField(h, rec, attrs)
	}
	switch {
	case errors.Is(err, ErrLimit):
		return EntryError(h.Name, err)
	case err != nil:
		return r.inEntry(ErrMalformed, "PAX record %.80q: %v", rec.Key, err)
	}
	return nil
}

// applyField copies what is kept: a record is a piece of its whole PAX header.
func applyField(h *Header, rec Record, attrs *attributes) (err error) {
	switch rec.Key {
	case "path":
		h.Name, err = strings.Clone(rec.Value), checkNoNUL(rec.Value)
	case "linkpath":
		h.Linkname, err = strings.Clone(rec.Value), checkNoNUL(rec.Value)
	case "uname":
		h.Uname, err = rec.Value, checkNoNUL(rec.Value)
	case "gname":
		h.Gname, err = rec.Value, checkNoNUL(rec.Value)
	case "size":
		attrs.stored, err = parseDecimal(rec.Value)
	case "uid":
		h.UID, err = parseID(rec.Value, maxID)
	case "gid":
		h.GID, err = parseID(rec.Value, maxID)
	case "mtime":
		h.Sec, h.Nsec, err = parseTime(rec.Value)
	case "SCHILY.devmajor":
		h.Devmajor, err = parseID(rec.Value, math.MaxUint32)
	case "SCHILY.devminor":
		h.Devminor, err = parseID(rec.Value, math.MaxUint32)
	case keyACLAccess:
		attrs.aclAccess = strings.Clone(rec.Value)
	case keyACLDefault:
		attrs.aclDefault = strings.Clone(rec.Value)
	default:
		h.Records = append(h.Records, rec)
	}
	return err
}

func checkNoNUL(s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("a NUL byte in it")
	}
	return nil
}

// parseDecimal reads digits only: no sign, no underscores.
func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("number %.40q", s)
	}
	return int64(n), nil
}

func parseID(s string, most int64) (uint32, error) {
	n, err := parseDecimal(s)
	if err == nil && n > most {
		err = fmt.Errorf("%d is out of range", n)
	}
	return uint32(n), err
}

// parseTime reads decimal seconds with a sign and a fraction; digits of it
// beyond nanoseconds are dropped.
func parseTime(s string) (sec int64, nsec uint32, err error) {
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	sec, err = parseDecimal(whole)
	if err != nil {
		return 0, 0, fmt.Errorf("time %.40q", s)
	}
	if strings.Trim(fraction, "0123456789") != "" {
		return 0, 0, fmt.Errorf("time %.40q", s)
	}
	for i := range 9 {
		nsec *= 10
		if i < len(fraction) {
			nsec += uint32(fraction[i] - '0')
		}
	}
	if strings.HasPrefix(s, "-") {
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return sec, nsec, nil
}
