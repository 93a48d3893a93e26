package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"
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

// parseTruth reads a filter's value that is true or false.
func parseTruth(value string, set func(bool)) error {
	switch value {
	case "1", "true":
		set(true)
	case "0", "false":
		set(false)
	default:
		return fmt.Errorf("%w: use true or false", ErrOption)
	}
	return nil
}

// period is the time between the making of two things; a zero time is no limit.
type period struct{ since, before time.Time }

// newPeriod makes one of what the filters "since" and "before" name, "" for nothing; created gives when that was made.
func newPeriod(since, before string, created func(key string) (time.Time, error)) (p period, err error) {
	if since != "" {
		p.since, err = created(since)
	}
	if before != "" && err == nil {
		p.before, err = created(before)
	}
	return p, err
}

func (p period) has(t time.Time) bool {
	return (p.since.IsZero() || t.After(p.since)) && (p.before.IsZero() || t.Before(p.before))
}

// hasAnyLabel tells whether one of unwanted, "key" or "key=value", is among labels.
func hasAnyLabel(labels map[string]string, unwanted []string) bool {
	return slices.ContainsFunc(unwanted, func(label string) bool { return hasLabels(labels, []string{label}) })
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
