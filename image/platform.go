package image

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

// ErrPlatform is wrapped by every error about a platform.
var ErrPlatform = errors.New("invalid platform")

// Platform says what machine an image is for (OCI image-spec, image-index.md, "platform").
type Platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`
}

// HostPlatform gives the platform of this program, which runs on Linux only.
func HostPlatform() Platform {
	return Platform{OS: "linux", Architecture: runtime.GOARCH}.normalize()
}

// ParsePlatform reads os/architecture[/variant], or an architecture alone, as --platform takes it.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if part == "" || !only(part, isTag) {
			return Platform{}, fmt.Errorf("%w %q: want os/architecture[/variant]", ErrPlatform, clip(s))
		}
	}
	switch len(parts) {
	case 1:
		return Platform{OS: "linux", Architecture: parts[0]}.normalize(), nil
	case 2:
		return Platform{OS: parts[0], Architecture: parts[1]}.normalize(), nil
	case 3:
		return Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}.normalize(), nil
	default:
		return Platform{}, fmt.Errorf("%w %q: want os/architecture[/variant]", ErrPlatform, clip(s))
	}
}

// String gives os/architecture[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Runs reports whether a machine of this platform runs images for candidate.
func (p Platform) Runs(candidate Platform) bool { return p.rank(candidate) > 0 }

// rank says how well an image for candidate suits p: 0 is not at all, more is better.
func (p Platform) rank(candidate Platform) int {
	want, have := p.normalize(), candidate.normalize()
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0
	}
	if want.Variant == have.Variant {
		return 100
	}
	// A newer variant runs what was built for an older one: arm v7 runs v6, amd64 v3 runs v2.
	wantLevel, haveLevel := variantLevel(want), variantLevel(have)
	if wantLevel == 0 || haveLevel == 0 || haveLevel > wantLevel {
		return 0
	}
	return haveLevel
}

func variantLevel(p Platform) int {
	level, found := strings.CutPrefix(p.Variant, "v")
	switch {
	case p.Variant == "" && p.Architecture == "amd64":
		return 1
	case found && len(level) == 1 && isDigit(level[0]):
		return int(level[0] - '0')
	default:
		return 0
	}
}

// normalize replaces other spellings by those of Go, as containerd's platforms package does.
func (p Platform) normalize() Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i686":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "v8" || p.Variant == "8"):
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && len(p.Variant) == 1:
		p.Variant = "v" + p.Variant
	}
	return p
}
