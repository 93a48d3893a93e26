package tarfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrUnknownOwner says that an ACL names a user or group whose number the
// archive does not tell.
var ErrUnknownOwner = errors.New("unknown name in ACL")

// Tags of ACL entries, in the order the kernel wants them
// (include/uapi/linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion   = 2
	aclEntrySize = 8
	aclNoID      = 0xffffffff
)

type aclEntry struct {
	tag, perm uint16
	id        uint32 // aclNoID unless the tag is aclUser or aclGroup
}

// owners is what the archive's own entries tell of the numbers of users and
// groups. Names are never looked up on the machine that reads: its users are not
// those of the archive.
type owners struct {
	users, groups       map[string]uint32
	lastUser, lastGroup string
}

// learn returns the bytes it had to keep.
func (o *owners) learn(h *Header) int {
	kept := 0
	note := func(ids *map[string]uint32, last *string, name string, id uint32) {
		if name == "" || name == *last {
			return
		}
		*last = name
		if _, known := (*ids)[name]; known {
			return
		}
		if *ids == nil {
			*ids = make(map[string]uint32)
		}
		(*ids)[strings.Clone(name)] = id // it may be a piece of a PAX header
		kept += len(name)
	}
	note(&o.users, &o.lastUser, h.Uname, h.UID)
	note(&o.groups, &o.lastGroup, h.Gname, h.GID)
	return kept
}

// ResolveACL turns acl into the kernel's binary form. Users and groups may be
// given by number, by name and number (star's fourth field), as "root", or by a
// name that owns one of the entries read so far; for another name the error is
// ErrUnknownOwner.
func (r *Reader) ResolveACL(acl ACL) (Xattr, error) {
	entries, err := parseACL(acl.Text, &r.owners)
	if err != nil {
		return Xattr{}, fmt.Errorf("%s: %w", acl.Name, err)
	}
	return Xattr{acl.Name, encodeACL(entries)}, nil
}

// parseACL returns all the entries with ErrUnknownOwner, so that their
// permissions can be used before the names are known.
func parseACL(text string, names *owners) ([]aclEntry, error) {
	var entries []aclEntry
	var unknown error
	for line := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == '\n' || c == ',' }) {
		line, _, _ = strings.Cut(line, "#") // getfacl's comments: "#effective:r--"
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseACLEntry(line, names)
		if err != nil {
			err = fmt.Errorf("ACL entry %.80q: %w", line, err)
			if !errors.Is(err, ErrUnknownOwner) {
				return nil, err
			}
			unknown = err
		}
		entries = append(entries, e)
	}
	if unknown != nil {
		return entries, unknown
	}
	slices.SortFunc(entries, func(a, b aclEntry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	return entries, validACL(entries)
}

func parseACLEntry(line string, names *owners) (aclEntry, error) {
	line = strings.TrimPrefix(strings.TrimPrefix(line, "default:"), "d:")
	fields := strings.Split(line, ":")
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	e := aclEntry{id: aclNoID}
	var ids map[string]uint32
	switch fields[0] {
	case "user", "u":
		e.tag, ids = aclUserObj, names.users
	case "group", "g":
		e.tag, ids = aclGroupObj, names.groups
	case "mask", "m":
		e.tag = aclMask
	case "other", "o":
		e.tag = aclOther
	default:
		return e, errors.New("no such tag")
	}
	if len(fields) == 2 && (e.tag == aclMask || e.tag == aclOther) {
		fields = []string{fields[0], "", fields[1]} // Solaris leaves the empty name out
	}
	if len(fields) < 3 || len(fields) > 4 {
		return e, errors.New("not tag:name:permissions")
	}
	for _, c := range fields[2] {
		switch c {
		case 'r':
			e.perm |= 4
		case 'w':
			e.perm |= 2
		case 'x':
			e.perm |= 1
		case '-':
		default:
			return e, fmt.Errorf("permission %q", c)
		}
	}
	if fields[1] == "" && (len(fields) == 3 || fields[3] == "") {
		return e, nil
	}
	if e.tag != aclUserObj && e.tag != aclGroupObj {
		return e, errors.New("a name where none belongs")
	}
	e.tag <<= 1 // to aclUser, aclGroup
	var err error
	e.id, err = aclID(fields, ids)
	return e, err
}

func aclID(fields []string, ids map[string]uint32) (uint32, error) {
	number := fields[1]
	if len(fields) == 4 {
		number = fields[3]
	}
	if n, err := strconv.ParseUint(number, 10, 32); err == nil && n <= maxID {
		return uint32(n), nil
	}
	if id, ok := ids[fields[1]]; ok {
		return id, nil
	}
	if fields[1] == "root" {
		return 0, nil
	}
	return 0, fmt.Errorf("%w: %.80q is no number and owns no entry of the archive (make the tar with --numeric-owner)", ErrUnknownOwner, fields[1])
}

// validACL checks sorted entries as the kernel's posix_acl_valid does.
func validACL(entries []aclEntry) error {
	var seen, qualified uint16
	for i, e := range entries {
		named := e.tag == aclUser || e.tag == aclGroup
		switch {
		case e.tag&(e.tag-1) != 0 || e.tag == 0 || e.tag > aclOther:
			return errors.New("invalid ACL: unknown tag")
		case e.perm&^7 != 0:
			return errors.New("invalid ACL: unknown permission")
		case named && e.id == aclNoID:
			return errors.New("invalid ACL: an entry without its user or group")
		case i > 0 && e.tag < entries[i-1].tag:
			return errors.New("invalid ACL: entries out of order")
		case seen&e.tag != 0 && !named:
			return errors.New("invalid ACL: the same entry twice")
		}
		seen |= e.tag
		if named {
			qualified |= e.tag
		}
	}
	const needed = aclUserObj | aclGroupObj | aclOther
	if seen&needed != needed {
		return errors.New("invalid ACL: user::, group:: or other:: is missing")
	}
	if qualified != 0 && seen&aclMask == 0 {
		return errors.New("invalid ACL: mask:: is missing")
	}
	return nil
}

// encodeACL writes struct posix_acl_xattr_header and _entry
// (include/uapi/linux/posix_acl_xattr.h).
func encodeACL(entries []aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func decodeACL(b []byte) ([]aclEntry, error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != aclVersion || len(b)%aclEntrySize != 4 {
		return nil, errors.New("invalid ACL: not the kernel's form")
	}
	var entries []aclEntry
	for b = b[4:]; len(b) > 0; b = b[aclEntrySize:] {
		e := aclEntry{
			tag:  binary.LittleEndian.Uint16(b),
			perm: binary.LittleEndian.Uint16(b[2:]),
			id:   aclNoID,
		}
		if e.tag == aclUser || e.tag == aclGroup {
			e.id = binary.LittleEndian.Uint32(b[4:]) // the kernel does not look at others'
		}
		entries = append(entries, e)
	}
	return entries, validACL(entries)
}

// aclText writes the kernel's binary form as text, owners by number. GNU tar and bsdtar read ACLs in
// no other form; who reads extended attributes has the binary one.
func aclText(value []byte) (string, error) {
	entries, err := decodeACL(value)
	if err != nil {
		return "", err
	}
	tags := map[uint16]string{
		aclUserObj: "user", aclUser: "user", aclGroupObj: "group", aclGroup: "group", aclMask: "mask", aclOther: "other",
	}
	fields := make([]string, 0, len(entries))
	for _, e := range entries {
		perm := []byte("---")
		for i, bit := range []uint16{4, 2, 1} {
			if e.perm&bit != 0 {
				perm[i] = "rwx"[i]
			}
		}
		owner := ""
		if e.tag == aclUser || e.tag == aclGroup {
			owner = strconv.FormatUint(uint64(e.id), 10)
		}
		fields = append(fields, tags[e.tag]+":"+owner+":"+string(perm))
	}
	return strings.Join(fields, ","), nil
}

// fitACLs makes h what a file is after its ACLs were set: the permission bits
// are those of the access ACL, which is gone if it says no more than they do; only
// directories have a default ACL, and symbolic links have none.
func fitACLs(h *Header) error {
	kept := h.Xattrs[:0]
	for _, x := range h.Xattrs {
		if x.Name == XattrACLAccess || x.Name == XattrACLDefault {
			value, err := fitACL(h, x)
			if err != nil {
				return fmt.Errorf("%s: %w", x.Name, err)
			}
			if value == nil {
				continue
			}
			x.Value = value
		}
		kept = append(kept, x)
	}
	h.Xattrs = kept
	return nil
}

// fitACL gives the value that a file system has for the ACL; nil: it has none.
func fitACL(h *Header, x Xattr) ([]byte, error) {
	if !canHaveACL(h, x.Name) {
		return nil, nil
	}
	entries, err := decodeACL(x.Value)
	if err != nil {
		return nil, err
	}
	if x.Name == XattrACLAccess {
		h.Mode = aclMode(h.Mode, entries)
		if len(entries) <= 3 {
			return nil, nil
		}
	}
	return encodeACL(entries), nil
}

func canHaveACL(h *Header, name string) bool {
	return h.Type == TypeDir || h.Type != TypeSymlink && name == XattrACLAccess
}

// aclMode is posix_acl_equiv_mode: the group bits are the mask's if there is one.
func aclMode(mode uint32, entries []aclEntry) uint32 {
	var user, group, mask, other uint32
	masked := false
	for _, e := range entries {
		switch e.tag {
		case aclUserObj:
			user = uint32(e.perm)
		case aclGroupObj:
			group = uint32(e.perm)
		case aclMask:
			mask, masked = uint32(e.perm), true
		case aclOther:
			other = uint32(e.perm)
		}
	}
	if masked {
		group = mask
	}
	return mode&^0o777 | user<<6 | group<<3 | other
}
