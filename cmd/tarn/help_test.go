package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// commands lists all but cobra's own.
func commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" {
			all = append(all, commands(cmd)...)
		}
	}
	return all
}

func TestEachCommandHasHelpWithExamples(t *testing.T) {
	for _, cmd := range commands(newRootCmd(new(app), nil)) {
		t.Run(cmd.Name(), func(t *testing.T) {
			require.NotEmpty(t, cmd.Short)
			require.NotRegexp(t, `\.$`, cmd.Short)
			for line := range strings.Lines(cmd.Long) {
				require.LessOrEqual(t, len(line), 96, "fits a terminal: %s", line)
			}
			examples := examplesIn(cmd.Example)
			require.NotEmpty(t, examples)
			about := 0
			for _, args := range examples {
				used := requireValid(t, args)
				if strings.HasPrefix(used.CommandPath()+" ", cmd.CommandPath()+" ") {
					about++
				}
			}
			require.Positive(t, about, "an example of %s", cmd.Name())
		})
	}
}

// requireValid parses a command line up to where the command would run.
func requireValid(t *testing.T, args []string) *cobra.Command {
	t.Helper()
	cmd, rest, err := newRootCmd(new(app), args).Find(args)
	require.NoError(t, err, args)
	require.NoError(t, cmd.ParseFlags(rest), args)
	require.True(t, cmd.HasParent(), "tarn %q is no command", args)
	require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), args)
	return cmd
}

var (
	commentPattern = regexp.MustCompile(` +# .*`)

	word        = `(?:'[^']*'|"[^"]*"|[^\s'"|;&()<>#])+`
	wordPattern = regexp.MustCompile(word)
	usePattern  = regexp.MustCompile(`\btarn((?:[ \t]+` + word + `)+)`)
)

// examplesIn gives the arguments of each use of tarn in lines of shell.
func examplesIn(text string) [][]string {
	var all [][]string
	text = commentPattern.ReplaceAllString(text, "")
	for _, use := range usePattern.FindAllStringSubmatch(text, -1) {
		var args []string
		for _, arg := range wordPattern.FindAllString(use[1], -1) {
			args = append(args, strings.NewReplacer("'", "", `"`, "").Replace(arg))
		}
		all = append(all, args)
	}
	return all
}

func TestExamplesOfReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	examples := 0
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "    ") && strings.Contains(line, "bin/tarn ") {
			for _, args := range examplesIn(line) {
				requireValid(t, args)
				examples++
			}
		}
	}
	require.Greater(t, examples, 5)
}

func TestExamplesAreFound(t *testing.T) {
	require.Equal(t, [][]string{{"rm", "-f", "$"}, {"ps", "-aq"}, {"inspect", "-f", "{{.A}} | b"}, {"run", "x", "-v", "$PWD:/src"}},
		examplesIn(`  tarn rm -f $(tarn ps -aq)   # or so
  ls "$(tarn inspect -f '{{.A}} | b')/x" | tarn run x -v "$PWD:/src" > /dev/null; true`))
}

// What --help says about --format is what a template can use.
func TestHelpListsTheFieldsOfFormat(t *testing.T) {
	root := newRootCmd(new(app), nil)
	for name, row := range map[string]any{
		"images": imageRow{}, "ps": containerRow{}, "history": stepRow{}, "layers": layerRow{}, "mount": mountRow{},
	} {
		cmd, _, err := root.Find([]string{name})
		require.NoError(t, err)
		_, list, found := strings.Cut(cmd.Long, "Fields for --format: ")
		require.True(t, found, name)
		var want []string
		for _, field := range reflect.VisibleFields(reflect.TypeOf(row)) {
			if field.IsExported() {
				want = append(want, "."+field.Name)
			}
		}
		for method := range reflect.TypeOf(row).Methods() {
			want = append(want, "."+method.Name)
		}
		require.ElementsMatch(t, want, regexp.MustCompile(`\.\w+`).FindAllString(list, -1), name)
	}
}
