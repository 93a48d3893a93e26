package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"
)

const resultsPage = `# What was measured

Made by ` + "`make bench`" + ` on {{.Date}}. Medians; what is compared ran in turns within the same minutes.

| work | measured | ratio | bar | |
|---|---|---|---|---|
{{range .Rows}}| {{cell .Work}} | {{cell .Measured}} | {{.Ratio}} | {{.Bar}} | {{if .Met}}met{{else}}**missed**{{end}} |
{{end}}
The machine:
{{range .Machine}}
- {{.}}{{end}}
`

// writeResults writes the page that README points at.
func writeResults(ctx context.Context, path string, lab *Lab, rows []Row) error {
	cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) } // or it would end there
	page, err := template.New("results").Funcs(template.FuncMap{"cell": cell}).Parse(resultsPage)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = page.Execute(&text, map[string]any{
		"Date": time.Now().UTC().Format(time.DateOnly), "Rows": rows, "Machine": describeMachine(ctx, lab),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

// describeMachine says what the figures depend on. What cannot be found out is left out.
func describeMachine(ctx context.Context, lab *Lab) []string {
	lines := []string{fmt.Sprintf("CPU: %s, %d in use", valueOf("/proc/cpuinfo", "model name"), runtime.NumCPU())}
	lines = append(lines, "memory: "+valueOf("/proc/meminfo", "MemTotal"))
	ask := func(what, name string, args ...string) {
		out, err := output(ctx, nil, name, args...)
		first, _, _ := strings.Cut(out, "\n")
		if err == nil && first != "" {
			lines = append(lines, strings.TrimSpace(what+" "+first))
		}
	}
	ask("kernel:", "uname", "-srm")
	ask("file system:", "findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", filepath.Dir(lab.tar))
	ask("", lab.tarn, "--version")
	ask("", "crun", "--version")
	ask("", "tar", "--version")
	return append(lines, "input: a Debian root of "+Bytes.format(float64(size(lab.tar)))+", uncompressed")
}

// valueOf finds "key : value" in a file of /proc.
func valueOf(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}
