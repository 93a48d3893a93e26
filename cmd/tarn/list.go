package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/format"
)

// listing says how a command prints its rows.
type listing struct {
	quiet, noTrunc bool
	format         string
	byName         bool // what is listed has names and no IDs
}

// addFlags adds the flags that all lists have. things are what is listed.
func (l *listing) addFlags(flags *pflag.FlagSet, things string) {
	if l.byName {
		flags.BoolVarP(&l.quiet, "quiet", "q", false, "print only the names of the "+things)
	} else {
		flags.BoolVarP(&l.quiet, "quiet", "q", false, "print only the IDs of the "+things)
		flags.BoolVar(&l.noTrunc, "no-trunc", false, "shorten nothing")
	}
	flags.StringVar(&l.format, "format", "", "print each by a Go `template`; 'table TEMPLATE' for columns with titles, 'json' for all")
}

// template is what --format says, else, with --quiet, the ID or name, else a table of these columns.
func (l *listing) template(columns ...string) (*format.Template, error) {
	switch {
	case l.format != "" && l.format != "table":
		return format.Parse(l.format)
	case l.quiet && l.byName:
		return format.Parse("{{.Name}}")
	case l.quiet:
		return format.Parse("{{.ID}}")
	default:
		return format.Parse("table {{." + strings.Join(columns, "}}\t{{.") + "}}")
	}
}

// uses tells whether --format asks for a field that costs something to know.
func (l *listing) uses(field string) bool {
	return l.format == "json" || strings.Contains(l.format, "."+field)
}

// id shortens an image's or a layer's ID.
func (l *listing) id(digest image.Digest) string {
	if l.noTrunc {
		return string(digest)
	}
	return digest.Short()
}

// hexID shortens a container's ID.
func (l *listing) hexID(id string) string {
	if l.noTrunc {
		return id
	}
	return id[:min(12, len(id))]
}

// text shortens what may be long.
func (l *listing) text(text string, length int) string {
	if l.noTrunc {
		return format.OneLine(text)
	}
	return format.Ellipsis(text, length)
}

// joinLabels prints labels as Docker does: "a=1,b=2".
func joinLabels(labels map[string]string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, format.OneLine(key+"="+labels[key]))
	}
	return strings.Join(list, ",")
}

// each does something with each name. It goes on after an error, which it prints on a line of its
// own, and then makes this command fail.
func each(cmd *cobra.Command, names []string, do func(name string) error) error {
	failed := false
	for _, name := range names {
		if err := do(name); err != nil {
			complain(cmd.ErrOrStderr(), err)
			failed = true
		}
		if err := cmd.Context().Err(); err != nil {
			return err
		}
	}
	if failed {
		return &exitError{status: 1}
	}
	return nil
}

// eachNamed does something with each name as [each] does, and prints those with which it went well.
func eachNamed(cmd *cobra.Command, names []string, do func(name string) error) error {
	return each(cmd, names, func(name string) error {
		err := do(name)
		if err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), name)
		}
		return err
	})
}

// complain prints an error on one line, with the program's name.
func complain(w io.Writer, err error) {
	message := oneLine(err)
	if message == "" {
		return
	}
	if todo := advice(err); todo != "" {
		message += " (" + todo + ")"
	}
	fmt.Fprintln(w, "tarn: "+message)
}

// advice says what to do about an error of the system's, if there is something to say.
func advice(err error) string {
	switch {
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return "tarn needs root: try sudo"
	case errors.Is(err, syscall.ENOSPC):
		return "see 'df' and 'df -i', what takes room with 'tarn df', and what can go with 'tarn prune --dry-run'"
	case errors.Is(err, syscall.EDQUOT):
		return "see what takes room with 'tarn df', and what can go with 'tarn prune --dry-run'"
	case errors.Is(err, syscall.EIO):
		return "the kernel's log may say why: dmesg"
	default:
		return ""
	}
}
