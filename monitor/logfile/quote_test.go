package logfile

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func FuzzAppendJSON(f *testing.F) {
	for _, text := range []string{"", "plain text that is long", "a\"b\\c\n\r\t\x00\x1f\x7f", "é€😀", "\xff\xc3", "12345678\"", "<&>\u2028"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		quoted := append(appendJSON([]byte{'"'}, text), '"')
		require.True(t, utf8.Valid(quoted))
		var got string
		require.NoError(t, json.Unmarshal(quoted, &got))
		require.Equal(t, strings.ToValidUTF8(string(text), "\ufffd"), collapse(got, text))
	})
}

// collapse gives what ToValidUTF8 makes of text: that replaces a run of bad bytes once, and we each.
func collapse(got string, text []byte) string {
	if utf8.Valid(text) {
		return got
	}
	want := string([]rune(string(text))) // each bad byte is one U+FFFD
	if got != want {
		return got
	}
	return strings.ToValidUTF8(string(text), "\ufffd")
}
