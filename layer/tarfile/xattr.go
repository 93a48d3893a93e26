package tarfile

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Names of the extended attributes that hold POSIX ACLs.
const (
	XattrACLAccess  = "system.posix_acl_access"
	XattrACLDefault = "system.posix_acl_default"
)

// GNU tar writes '=' and '%' of an attribute's name as %3D and %25, for a PAX
// key ends at the first '='.
var (
	xattrEscaper   = strings.NewReplacer("%", "%25", "=", "%3D") //nolint:gochecknoglobals // a constant in all but syntax
	xattrUnescaper = strings.NewReplacer("%25", "%", "%3D", "=") //nolint:gochecknoglobals // a constant in all but syntax
)

func unescapeXattr(name string) string {
	if strings.IndexByte(name, '%') < 0 {
		return name
	}
	return xattrUnescaper.Replace(name)
}

// decodeLibarchive reads an attribute as bsdtar writes it: the name URL-encoded,
// the value in base64, with or without padding.
func decodeLibarchive(name, value string) (Xattr, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return Xattr{}, err
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return Xattr{}, err
	}
	return Xattr{name, raw}, nil
}

func (r *Reader) checkXattrs(attrs *attributes, name string) error {
	switch {
	case name == "":
		return errors.New("an extended attribute without a name")
	case strings.IndexByte(name, 0) >= 0:
		return errors.New("an extended attribute with a NUL byte in its name")
	case len(attrs.weak)+len(attrs.strong) > r.limits.Xattrs:
		return fmt.Errorf("%w: more than %d extended attributes", ErrLimit, r.limits.Xattrs)
	}
	return nil
}

// applyXattrs puts the attributes and ACLs that the records gave into r.header.
func (r *Reader) applyXattrs(attrs *attributes) error {
	h := &r.header
	if attrs.weak == nil && attrs.strong == nil && attrs.aclAccess == "" && attrs.aclDefault == "" {
		return nil
	}
	h.Xattrs = attrs.weak
	for _, acl := range []ACL{{XattrACLAccess, attrs.aclAccess}, {XattrACLDefault, attrs.aclDefault}} {
		isBinary := func(x Xattr) bool { return x.Name == acl.Name }
		if acl.Text == "" || !canHaveACL(h, acl.Name) || slices.ContainsFunc(attrs.strong, isBinary) {
			continue
		}
		h.Xattrs = slices.DeleteFunc(h.Xattrs, isBinary)
		if err := r.applyACL(acl); err != nil {
			return r.inEntry(ErrMalformed, "%s: %v", acl.Name, err)
		}
	}
	h.Xattrs = lastOfEach(append(h.Xattrs, attrs.strong...))
	size := 0
	for _, x := range h.Xattrs {
		size += len(x.Name) + len(x.Value)
	}
	if size > r.limits.XattrBytes {
		return r.inEntry(ErrLimit, "%d bytes of extended attributes, more than %d", size, r.limits.XattrBytes)
	}
	if err := fitACLs(h); err != nil {
		return r.inEntry(ErrMalformed, "%v", err)
	}
	return nil
}

func (r *Reader) applyACL(acl ACL) error {
	h := &r.header
	entries, err := parseACL(acl.Text, &r.owners)
	if errors.Is(err, ErrUnknownOwner) {
		h.ACLs = append(h.ACLs, acl)
		if acl.Name == XattrACLAccess {
			h.Mode = aclMode(h.Mode, entries)
		}
		return nil
	}
	if err != nil {
		return err
	}
	h.Xattrs = append(h.Xattrs, Xattr{acl.Name, encodeACL(entries)})
	return nil
}

// lastOfEach sorts xattrs by name and keeps the last one of each name.
func lastOfEach(xattrs []Xattr) []Xattr {
	slices.SortStableFunc(xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	kept := xattrs[:0]
	for i, x := range xattrs {
		if i+1 == len(xattrs) || xattrs[i+1].Name != x.Name {
			kept = append(kept, x)
		}
	}
	return kept
}
