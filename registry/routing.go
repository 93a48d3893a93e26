package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/tarnfs/tarn/image"
)

// routing is what of containers-registries.conf(5), version 2, is followed: mirrors, other
// locations, registries without TLS, blocked ones. Short names are resolved as Docker does,
// so unqualified-search-registries and aliases are not.
type routing struct {
	Registries []registryConfig `toml:"registry"`
}

type registryConfig struct {
	Prefix             string         `toml:"prefix"`
	Location           string         `toml:"location"`
	Insecure           bool           `toml:"insecure"`
	Blocked            bool           `toml:"blocked"`
	Mirrors            []mirrorConfig `toml:"mirror"`
	MirrorByDigestOnly bool           `toml:"mirror-by-digest-only"`
}

type mirrorConfig struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	// PullFromMirror is "all", "digest-only" or "tag-only".
	PullFromMirror string `toml:"pull-from-mirror"`
}

// configFiles lists the files to read, the first that exists of the main ones, then the drop-ins.
func configFiles() ([]string, error) {
	var main, dirs []string
	if path := os.Getenv("CONTAINERS_REGISTRIES_CONF"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w: CONTAINERS_REGISTRIES_CONF: %w", ErrConfig, err)
		}
		return []string{path}, nil
	}
	if home, err := os.UserConfigDir(); err == nil {
		main = append(main, filepath.Join(home, "containers/registries.conf"))
		dirs = append(dirs, filepath.Join(home, "containers/registries.conf.d"))
	}
	main = append(main, "/etc/containers/registries.conf")
	dirs = append([]string{"/etc/containers/registries.conf.d"}, dirs...)
	var files []string
	for _, path := range main {
		if _, err := os.Stat(path); err == nil {
			files = append(files, path)
			break
		}
	}
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "*.conf"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

func loadRouting() (*routing, error) {
	files, err := configFiles()
	if err != nil {
		return nil, err
	}
	all := new(routing)
	for _, path := range files {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		one, err := parseRouting(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
		}
		all.merge(one)
	}
	return all, nil
}

func parseRouting(text []byte) (*routing, error) {
	c := new(routing)
	if err := toml.Unmarshal(text, c); err != nil {
		return nil, err
	}
	for i := range c.Registries {
		r := &c.Registries[i]
		if r.Prefix == "" {
			r.Prefix = r.Location
		}
		if r.Prefix == "" {
			return nil, errors.New("a [[registry]] has neither prefix nor location")
		}
		for _, m := range r.Mirrors {
			if m.Location == "" {
				return nil, fmt.Errorf("a mirror of %s has no location", r.Prefix)
			}
		}
	}
	return c, nil
}

// merge adds a later file, whose registries replace those of the same prefix.
func (c *routing) merge(later *routing) {
	for _, r := range later.Registries {
		c.Registries = slices.DeleteFunc(c.Registries, func(old registryConfig) bool { return old.Prefix == r.Prefix })
		c.Registries = append(c.Registries, r)
	}
}

// location is a repository at a host.
type location struct {
	host, path string
	insecure   bool
}

// valid tells whether that is a repository's name, so that nothing else gets into a URL.
func (l location) valid() bool {
	_, err := image.ParseReference(l.host + "/" + l.path)
	return err == nil && l.host != "" && l.path != ""
}

type route struct {
	origin  location
	mirrors []location
}

// route says where an image's repository is reached.
func (c *routing) route(ref image.Reference) (route, error) {
	best := c.match(ref)
	if best == nil {
		return route{origin: location{host: apiHost(ref.Domain()), path: ref.Path()}}, nil
	}
	if best.Blocked {
		return route{}, fmt.Errorf("%s: %w", ref.Repository(), ErrBlocked)
	}
	var r route
	r.origin = best.rewrite(ref, best.Location, best.Insecure)
	if !r.origin.valid() {
		return route{}, fmt.Errorf("%w: %s: location %q names no repository", ErrConfig, ref.Repository(), best.Location)
	}
	for _, m := range best.Mirrors {
		if best.MirrorByDigestOnly && ref.Digest() == "" ||
			m.PullFromMirror == "digest-only" && ref.Digest() == "" || m.PullFromMirror == "tag-only" && ref.Digest() != "" {
			continue
		}
		mirror := best.rewrite(ref, m.Location, m.Insecure)
		if !mirror.valid() {
			return route{}, fmt.Errorf("%w: %s: mirror %q names no repository", ErrConfig, ref.Repository(), m.Location)
		}
		r.mirrors = append(r.mirrors, mirror)
	}
	return r, nil
}

// match finds the entry with the longest prefix that the name begins with.
func (c *routing) match(ref image.Reference) *registryConfig {
	var best *registryConfig
	for i := range c.Registries {
		r := &c.Registries[i]
		if r.covers(ref) && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best = r
		}
	}
	return best
}

// covers tells whether the prefix is the beginning of the name, up to a whole component; "*.host"
// covers all hosts below.
func (r *registryConfig) covers(ref image.Reference) bool {
	if suffix, wild := strings.CutPrefix(r.Prefix, "*"); wild {
		return strings.HasPrefix(suffix, ".") && strings.HasSuffix(ref.Domain(), suffix)
	}
	name := ref.Repository()
	rest, found := strings.CutPrefix(name, r.Prefix)
	return found && (rest == "" || rest[0] == '/')
}

// rewrite replaces the prefix by another location, if there is one.
func (r *registryConfig) rewrite(ref image.Reference, to string, insecure bool) location {
	name := ref.Repository()
	switch {
	case to == "":
	case strings.HasPrefix(r.Prefix, "*"):
		name = to + "/" + ref.Path()
	default:
		name = to + strings.TrimPrefix(name, r.Prefix)
	}
	host, path, _ := strings.Cut(name, "/")
	return location{host: apiHost(host), path: path, insecure: insecure}
}
