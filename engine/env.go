package engine

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tarnfs/tarn/container"
	"github.com/tarnfs/tarn/image"
)

// setEntry puts a NAME=value entry into env; NAME alone takes it out, as in Docker.
func setEntry(env []string, entry string) []string {
	name, value, found := strings.Cut(entry, "=")
	if !found {
		return slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	return image.SetEnv(env, name, value)
}

// applyEnv applies what a user gave: NAME=value, or NAME for the value it has here; where it has
// none here, the container has none either.
func applyEnv(env []string, entry string) ([]string, error) {
	name, value, found := strings.Cut(entry, "=")
	if name == "" {
		return nil, fmt.Errorf("%w: environment %q: want NAME=value, or NAME", ErrOption, entry)
	}
	if !found {
		var set bool
		if value, set = os.LookupEnv(name); !set {
			return setEntry(env, name), nil
		}
	}
	return image.SetEnv(env, name, value), nil
}

// processEnv is the environment of a container's process, but for HOME: what Docker sets comes first,
// then the container's own.
func processEnv(settings *ContainerSettings) []string {
	env := []string{"PATH=" + container.DefaultPath, "HOSTNAME=" + settings.Config.Hostname}
	if settings.Terminal {
		env = append(env, "TERM=xterm")
	}
	for _, entry := range settings.Config.Env {
		env = setEntry(env, entry)
	}
	return env
}

// withHome adds the user's home directory, if nobody said what HOME is.
func withHome(env []string, home string) []string {
	if _, found := image.LookupEnv(env, "HOME"); found {
		return env
	}
	return append(slices.Clip(env), "HOME="+cmp.Or(home, "/"))
}

// readEntryFiles reads files of lines that are entries, empty, or comments after '#'. kind is for errors.
func readEntryFiles(kind string, paths []string) ([]string, error) {
	var entries []string
	for _, path := range paths {
		lines, err := readEntryFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		entries = append(entries, lines...)
	}
	return entries, nil
}

func readEntryFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var entries []string
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimLeftFunc(strings.TrimPrefix(scanner.Text(), "\ufeff"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line, "=")
		if name == "" || strings.ContainsFunc(name, unicode.IsSpace) || !utf8.ValidString(line) {
			return nil, fmt.Errorf("%s, line %d: %w: want NAME=value, or NAME", path, n, ErrOption)
		}
		entries = append(entries, line)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}

// mergeLabels adds "key=value" or "key" entries to the image's labels.
func mergeLabels(labels map[string]string, entries []string) (map[string]string, error) {
	merged := maps.Clone(labels)
	for _, entry := range entries {
		key, value, _ := strings.Cut(entry, "=")
		if key == "" {
			return nil, fmt.Errorf("%w: label %q: want KEY=value, or KEY", ErrOption, entry)
		}
		if merged == nil {
			merged = make(map[string]string)
		}
		merged[key] = value
	}
	return merged, nil
}
