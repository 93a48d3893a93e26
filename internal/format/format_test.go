package format_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/format"
)

type row struct {
	Name   string
	Labels map[string]string
	Tags   []string
}

func render(t *testing.T, text string, rows ...row) (string, error) {
	t.Helper()
	parsed, err := format.Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = format.Execute(&b, parsed, map[string]string{"Name": "NAME", "Tags": "TAGS"}, rows)
	return b.String(), err
}

func TestTemplates(t *testing.T) {
	web := row{Name: "web", Labels: map[string]string{"a": "<b>"}, Tags: []string{"x", "y"}}
	for text, want := range map[string]string{
		"{{.Name}}":                        "web\n",
		"json":                             `{"Name":"web","Labels":{"a":"<b>"},"Tags":["x","y"]}` + "\n",
		"{{json .Labels}}":                 `{"a":"<b>"}` + "\n",
		`{{join .Tags ","}}`:               "x,y\n",
		`{{index (split .Name "e") 1}}`:    "b\n",
		"{{upper .Name}} {{lower \"A\"}}":  "WEB a\n",
		"{{title .Name}}":                  "Web\n",
		"[{{pad .Name 1 2}}]":              "[ web  ]\n",
		"{{truncate .Name 2}}":             "we\n",
		"{{truncate .Name 9}}":             "web\n",
		`{{.Name}}\t{{len .Tags}}\n`:       "web\t2\n\n",
		`{{println .Name}}`:                "web\n\n",
		`{{printf "%s\t" .Name}}`:          "web\t\n",
		"table {{.Name}}\t{{.Name}}":       "NAME      NAME\nweb       web\n",
		`table {{.Name}}\t{{upper .Name}}`: "NAME      NAME\nweb       WEB\n",
	} {
		got, err := render(t, text, web)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestTableWithoutTitles(t *testing.T) {
	parsed, err := format.Parse("table {{.Name}}\t{{.Name}}")
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, format.Execute(&b, parsed, nil, []row{{Name: "a long name"}, {Name: "b"}}))
	require.Equal(t, "a long name   a long name\nb             b\n", b.String())
}

func TestObject(t *testing.T) {
	object := &struct {
		ID     string `json:"Id"`
		Size   int64
		Labels map[string]string
	}{"abc", 12_345_678_901, map[string]string{"a": "b"}}
	for text, want := range map[string]string{
		"{{.ID}}":            "abc\n", // as in Go
		"{{.Id}} {{.Size}}":  "abc 12345678901\n",
		"{{.Labels.a}}":      "b\n",
		"{{.Labels.nope}}":   "<no value>\n",
		"json":               `{"Id":"abc","Size":12345678901,"Labels":{"a":"b"}}` + "\n",
		`{{len .Labels}}\n.`: "1\n.\n",
	} {
		parsed, err := format.Parse(text)
		require.NoError(t, err)
		var b strings.Builder
		require.NoError(t, format.Object(&b, parsed, object), text)
		require.Equal(t, want, b.String(), text)
	}
	parsed, err := format.Parse("{{.Nope}}")
	require.NoError(t, err)
	var b strings.Builder
	require.EqualError(t, format.Object(&b, parsed, object), "bad --format: <.Nope>: can't evaluate field Nope")
	require.Empty(t, b.String())
}

func TestTemplatesThatCannotBeUsed(t *testing.T) {
	for _, text := range []string{"{{", "{{.Nope}}", "{{nope}}", "{{index .Tags 5}}"} {
		_, err := render(t, text, row{})
		require.ErrorIs(t, err, format.ErrTemplate, text)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "Less than a second",
		time.Second:              "1 second",
		59 * time.Second:         "59 seconds",
		90 * time.Second:         "About a minute",
		30 * time.Minute:         "30 minutes",
		80 * time.Minute:         "About an hour",
		47 * time.Hour:           "47 hours",
		72 * time.Hour:           "3 days",
		20 * 24 * time.Hour:      "2 weeks",
		90 * 24 * time.Hour:      "3 months",
		3 * 365 * 24 * time.Hour: "3 years",
	} {
		require.Equal(t, want, format.Duration(d))
	}
	now := time.Now()
	require.Equal(t, "5 seconds ago", format.Ago(now.Add(-5*time.Second), now))
	require.Empty(t, format.Ago(time.Time{}, now))
}

func TestSizeAndEllipsis(t *testing.T) {
	for size, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 4_213_456: "4.213MB", 275_000_000: "275MB", 1 << 40: "1.1TB"} {
		require.Equal(t, want, format.Size(size))
	}
	require.Equal(t, "short", format.Ellipsis("short", 5))
	require.Equal(t, "shor…", format.Ellipsis("shorter", 5))
	require.Equal(t, "a b", format.Ellipsis("a\n\tb", 5))
	require.Equal(t, "\uFFFD[2J  a", format.Printable("\x1b[2J\t\na"))
	require.Equal(t, "\uFFFD[2Jred \uFFFD", format.OneLine("\x1b[2Jred\r\n \x9b"))
	require.Equal(t, "äö…", format.Ellipsis("äöüß", 3))
}
