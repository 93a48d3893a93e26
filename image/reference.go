package image

import (
	"errors"
	"fmt"
	"strings"
)

// ErrReference is wrapped by every error about a name that is not an image reference.
var ErrReference = errors.New("invalid reference")

const (
	defaultDomain  = "docker.io"
	legacyDomain   = "index.docker.io"
	officialPrefix = "library/"
	defaultTag     = "latest"

	maxRepositoryPath = 255
	maxTag            = 128
)

// Reference is a name of an image: registry, repository, and a tag or digest or both. Its rules
// are those of github.com/distribution/reference, Docker's short names included ("debian" is
// docker.io/library/debian). That library is this parser's oracle in the tests and not its
// implementation because compiling its regular expressions takes about 1 ms of every start.
//
// The zero Reference is no name at all.
type Reference struct {
	domain, path, tag string
	digest            Digest
}

// ParseReference reads a reference as a user types it: [domain/]path[:tag][@digest].
func ParseReference(s string) (Reference, error) {
	ref, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("%w %q: %w", ErrReference, clip(s), err)
	}
	return ref, nil
}

func parseReference(s string) (Reference, error) {
	if len(s) == 64 && isLowerHex(s) {
		return Reference{}, errors.New("64 hexadecimal digits are an image ID, not a name")
	}
	domain, rest := splitDomain(s)
	ref := Reference{domain: domain}
	rest, encoded, hasDigest := strings.Cut(rest, "@")
	path, tag, hasTag := strings.Cut(rest, ":")
	ref.path, ref.tag = path, tag
	switch {
	case path == "" || path == officialPrefix:
		return ref, errors.New("the name is empty")
	case strings.ToLower(path) != path:
		return ref, errors.New("the repository name must be lower case")
	case !validDomain(domain):
		return ref, fmt.Errorf("%q is not a registry host", clip(domain))
	case !validPath(path):
		return ref, errors.New("want [registry/]name[:tag][@digest]")
	case len(path) > maxRepositoryPath:
		return ref, fmt.Errorf("the repository name is longer than %d characters", maxRepositoryPath)
	case hasTag && !validTag(tag):
		return ref, fmt.Errorf("%q is not a tag", clip(tag))
	}
	if hasDigest {
		var err error
		if ref.digest, err = ParseDigest(encoded); err != nil {
			return ref, err
		}
	}
	return ref, nil
}

// Domain gives the registry's host and port, such as "docker.io".
func (r Reference) Domain() string { return r.domain }

// Path gives the repository within the registry, such as "library/debian".
func (r Reference) Path() string { return r.path }

// Tag gives the tag, or "" if the reference has none.
func (r Reference) Tag() string { return r.tag }

// Digest gives the digest, or "" if the reference has none.
func (r Reference) Digest() Digest { return r.digest }

// IsZero reports whether this is the zero Reference.
func (r Reference) IsZero() bool { return r.path == "" }

// WithDefaultTag adds the tag "latest" if the reference has neither tag nor digest.
func (r Reference) WithDefaultTag() Reference {
	if r.tag == "" && r.digest == "" && !r.IsZero() {
		r.tag = defaultTag
	}
	return r
}

// WithDigest gives the repository of r at d, without a tag.
func (r Reference) WithDigest(d Digest) Reference {
	r.tag, r.digest = "", d
	return r
}

// WithTag gives the repository of r at tag, without a digest. The tag must be valid.
func (r Reference) WithTag(tag string) Reference {
	r.tag, r.digest = tag, ""
	return r
}

// Repository gives domain and path: the canonical name without tag and digest.
func (r Reference) Repository() string {
	if r.IsZero() {
		return ""
	}
	return r.domain + "/" + r.path
}

// String gives the canonical form, such as "docker.io/library/debian:12".
func (r Reference) String() string { return r.Repository() + r.suffix() }

// FamiliarName gives the repository as Docker shows it, such as "debian".
func (r Reference) FamiliarName() string {
	if r.domain != defaultDomain {
		return r.Repository()
	}
	if name, official := strings.CutPrefix(r.path, officialPrefix); official && !strings.Contains(name, "/") {
		return name
	}
	return r.path
}

// Familiar gives the reference as Docker shows it, such as "debian:12".
func (r Reference) Familiar() string { return r.FamiliarName() + r.suffix() }

func (r Reference) suffix() string {
	var s string
	if r.tag != "" {
		s = ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + string(r.digest)
	}
	return s
}

// ValidRepository reports whether s may be a repository's name in a registry (OCI
// distribution-spec, "Pulling manifests"). It has no registry in it, or one that reads like a path.
func ValidRepository(s string) bool { return len(s) <= maxRepositoryPath && validPath(s) }

// ValidTag reports whether s may be a tag.
func ValidTag(s string) bool { return validTag(s) }

// splitDomain applies Docker's rule for short names (distribution/reference, splitDockerDomain):
// the first component is a registry if it looks like a host.
func splitDomain(name string) (domain, rest string) {
	first, remainder, found := strings.Cut(name, "/")
	if !found {
		return defaultDomain, officialPrefix + name
	}
	switch {
	case first == legacyDomain:
		domain, rest = defaultDomain, remainder
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, remainder
	default:
		domain, rest = defaultDomain, name
	}
	if domain == defaultDomain && !strings.Contains(rest, "/") {
		rest = officialPrefix + rest
	}
	return domain, rest
}

// validDomain accepts host[:port]: a DNS-like name, an IPv4 address, or an IPv6 address in brackets.
func validDomain(domain string) bool {
	if inner, found := strings.CutPrefix(domain, "["); found {
		address, port, closed := strings.Cut(inner, "]")
		return closed && address != "" && only(address, isIPv6) && validPort(port)
	}
	host, port := domain, ""
	if i := strings.IndexByte(domain, ':'); i >= 0 {
		host, port = domain[:i], domain[i:]
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !only(label, isLabel) {
			return false
		}
	}
	return validPort(port)
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	digits, found := strings.CutPrefix(port, ":")
	return found && digits != "" && only(digits, isDigit)
}

// validPath accepts components of lower-case letters and digits, joined within by one period, one
// or two underscores or any number of dashes.
func validPath(path string) bool {
	for component := range strings.SplitSeq(path, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	for s != "" {
		n := span(s, isLowerAlnum)
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		n = span(s, func(c byte) bool { return !isLowerAlnum(c) })
		switch separator := s[:n]; {
		case separator == ".", separator == "_", separator == "__":
		case strings.Trim(separator, "-") == "":
		default:
			return false
		}
		s = s[n:]
	}
	return false
}

func validTag(tag string) bool {
	return tag != "" && len(tag) <= maxTag && tag[0] != '.' && tag[0] != '-' && only(tag, isTag)
}

func only(s string, class func(byte) bool) bool { return span(s, class) == len(s) }

// span counts the leading bytes of s that are in class.
func span(s string, class func(byte) bool) int {
	for i := range len(s) {
		if !class(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool      { return c >= '0' && c <= '9' }
func isLowerAlnum(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'z' }
func isAlnum(c byte) bool      { return isLowerAlnum(c) || c >= 'A' && c <= 'Z' }
func isLabel(c byte) bool      { return isAlnum(c) || c == '-' }
func isTag(c byte) bool        { return isAlnum(c) || c == '_' || c == '.' || c == '-' }
func isIPv6(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == ':'
}
