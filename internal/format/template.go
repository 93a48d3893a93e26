// Package format prints results as people and scripts ask for them: Go templates with Docker's
// functions, tables, and sizes and times in words.
package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// ErrTemplate is wrapped by every error about a --format that cannot be used.
var ErrTemplate = errors.New("bad --format")

// Template is a parsed --format.
type Template struct {
	parsed *template.Template
	table  bool
}

// Parse reads a --format as Docker takes it: a Go template, "table TEMPLATE" for columns with a
// header, or "json" for each result as one line of JSON. The functions are Docker's: json, join,
// split, lower, upper, title, pad, truncate, println. In what is not quoted by "{{", "\t" and
// "\n" may be written with a backslash.
func Parse(text string) (*Template, error) {
	t := &Template{}
	if text == "json" {
		text = "{{json .}}"
	}
	if columns, ok := strings.CutPrefix(text, "table "); ok {
		t.table, text = true, strings.TrimSpace(columns)
	}
	parsed, err := template.New("").Funcs(functions()).Parse(unescape(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrTemplate, explain(err))
	}
	t.parsed = parsed
	return t, nil
}

// unescape has a shell's single quotes carry tabs and newlines, but leaves what is inside an action.
func unescape(text string) string {
	var b strings.Builder
	for text != "" {
		plain, rest, found := strings.Cut(text, "{{")
		b.WriteString(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(plain))
		if !found {
			break
		}
		action, after, closed := strings.Cut(rest, "}}")
		b.WriteString("{{" + action)
		if closed {
			b.WriteString("}}")
		}
		text = after
	}
	return b.String()
}

// Execute writes each row on a line of its own. header is what a table has above them: a row, or a map,
// whose fields are their titles, or nil.
func Execute[T any](w io.Writer, t *Template, header any, rows []T) error {
	if !t.table {
		return execute(w, t, rows)
	}
	// Three spaces, as Docker has them.
	columns := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if header != nil {
		if err := line(columns, t, header); err != nil {
			return err
		}
	}
	if err := execute(columns, t, rows); err != nil {
		return err
	}
	return columns.Flush()
}

// Object writes one object on a line of its own. A template may use the names that its fields have in
// Go, or else those that they have in JSON.
func Object(w io.Writer, t *Template, object any) error {
	err := line(w, t, object)
	if err == nil {
		return nil
	}
	data, marshalErr := json.Marshal(object)
	if marshalErr != nil {
		return marshalErr
	}
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // a size shall not become 1.2e+07
	if decoder.Decode(&fields) != nil {
		return err // not an object
	}
	if line(w, t.strict(), fields) != nil {
		return err
	}
	return nil
}

// strict is the template with an error for what a map does not have.
func (t *Template) strict() *Template {
	clone, err := t.parsed.Clone()
	if err != nil {
		return t
	}
	return &Template{parsed: clone.Option("missingkey=error")}
}

func execute[T any](w io.Writer, t *Template, rows []T) error {
	for _, row := range rows {
		if err := line(w, t, row); err != nil {
			return err
		}
	}
	return nil
}

func line(w io.Writer, t *Template, data any) error {
	var b bytes.Buffer
	if err := t.parsed.Execute(&b, data); err != nil {
		return fmt.Errorf("%w: %s", ErrTemplate, explain(err))
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// explain leaves out what a user did not write: the template's name, of which it has none, and Go's
// types.
func explain(err error) string {
	message := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "template: "), ":")
	if _, rest, found := strings.Cut(message, `executing "" at `); found {
		message, _, _ = strings.Cut(rest, " in type ")
	}
	return message
}

// functions are those of docker/cli, templates/templates.go.
func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var b bytes.Buffer
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			err := encoder.Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"split": strings.Split,
		"join":  strings.Join,
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
		"truncate": func(s string, length int) string {
			runes := []rune(s)
			return string(runes[:max(min(length, len(runes)), 0)])
		},
	}
}
