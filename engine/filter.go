package engine

import (
	"fmt"
	"strings"
)

// eachFilter gives the "key=value" options of --filter one by one.
func eachFilter(options []string, add func(key, value string) error) error {
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found {
			return fmt.Errorf("%w: filter %q: want KEY=VALUE", ErrOption, option)
		}
		if err := add(key, value); err != nil {
			return fmt.Errorf("filter %s: %w", option, err)
		}
	}
	return nil
}

// hasLabels tells whether all of wanted, "key" or "key=value", are among labels.
func hasLabels(labels map[string]string, wanted []string) bool {
	for _, label := range wanted {
		key, want, hasValue := strings.Cut(label, "=")
		value, found := labels[key]
		if !found || hasValue && value != want {
			return false
		}
	}
	return true
}
