package main

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newDiffCmd(a *app) *cobra.Command {
	var template string
	cmd := &cobra.Command{
		Use:     "diff [flags] CONTAINER",
		GroupID: groupContainers,
		Short:   "List what a container changed",
		Long: `List the files and directories that a container added (A), changed (C) or deleted (D),
running or not. A directory above a change is changed, too; of a deleted directory only
itself is listed. What is mounted in the container is not looked at.

Fields for --format: .Type .Path`,
		Example: `  tarn diff work
  tarn diff work | grep ^A`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			parsed, err := format.Parse(template)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			changes, err := e.Diff(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if template != "json" {
				for i := range changes {
					changes[i].Path = printable(changes[i].Path)
				}
			}
			return format.Execute(cmd.OutOrStdout(), parsed, engine.Change{Type: "CHANGE TYPE", Path: "PATH"}, changes)
		},
		ValidArgsFunction: complete(1, a.containerNames),
	}
	cmd.Flags().StringVar(&template, "format", "{{.Type}} {{.Path}}", "print each by a Go `template`; 'table TEMPLATE' for columns with titles, 'json' for all")
	return cmd
}

// printable quotes a name that would end the line, or tell the terminal what to do.
func printable(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl) {
		return name
	}
	return strconv.Quote(name)
}
