package engine //nolint:testpackage // the filter is nobody else's business

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		"": "\x10\x11", "ctrl-a": "\x01", "a,b": "ab", "ctrl-@,ctrl-[,ctrl-_": "\x00\x1b\x1f", "ctrl-p,q": "\x10q",
	} {
		keys, err := ParseDetachKeys(text)
		require.NoError(t, err, text)
		require.Equal(t, want, string(keys))
	}
	for _, bad := range []string{",", "ctrl-", "ctrl-A", "ctrl-1", "ab", "ctrl-p,,q"} {
		_, err := ParseDetachKeys(bad)
		require.ErrorIs(t, err, ErrOption, bad)
	}
}

func TestDetachFilter(t *testing.T) {
	for _, c := range []struct {
		keys   string
		inputs []string
		output string
		leave  bool
	}{
		{"pq", []string{"hello"}, "hello", false},
		{"pq", []string{"hello", "p", "q", "x"}, "hello", true},
		{"pq", []string{"p", "x"}, "px", false},
		{"pq", []string{"ppq"}, "p", true},
		{"pq", []string{"p", "p"}, "p", false}, // the second is held back
		{"aab", []string{"a", "a", "a", "b"}, "a", true},
		{"abac", []string{"ababac"}, "ab", true},
		{"x", []string{"ax"}, "a", true},
		{"", []string{"anything"}, "anything", false},
	} {
		f := &detachFilter{keys: []byte(c.keys)}
		var output string
		leave := false
		for _, input := range c.inputs {
			var passed []byte
			if passed, leave = f.pass([]byte(input)); true {
				output += string(passed)
			}
			if leave {
				break
			}
		}
		require.Equal(t, c.output, output, "%v", c)
		require.Equal(t, c.leave, leave, "%v", c)
	}
}
