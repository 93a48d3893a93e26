package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
	"github.com/tarnfs/tarn/internal/sys"
)

// faultRow is something wrong as --format sees it.
type faultRow struct {
	User, Kind, ID, Part, Path, Problem string
	Harmless                            bool
}

func newCheckCmd(a *app) *cobra.Command {
	var (
		list listing
		opts engine.CheckOptions
	)
	cmd := &cobra.Command{
		Use:     "check [flags]",
		GroupID: groupStore,
		Short:   "Prove that the store is sound, or say what is not",
		Long: `Prove that the store is sound, or say what is not: that every name leads to a manifest, a
config and layers that are there; that what a layer borrows is there; that records and
indexes are well formed and have the checksums they say. With --deep every byte is read:
digests of layers and blobs are computed, and each layer's index is made again from its tar
and compared.

What is wrong is listed with the images and containers that need it, and the exit status is
1. What is harmless is counted: what a killed command left over, which 'tarn prune' removes,
and tables that only save work, which 'tarn repair' makes again.

Fields for --format: .User .Kind .ID .Part .Path .Problem .Harmless`,
		Example: `  tarn check
  tarn check --deep
  tarn check --format json | jq -r .Path`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			template, err := list.template("User", "Kind", "ID", "Part", "Problem")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			checked, err := checkStore(cmd, e, &list, opts)
			if err != nil {
				return err
			}
			return showChecked(cmd, template, &list, checked)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Deep, "deep", false, "read every byte")
	list.addFlags(flags, "objects")
	return cmd
}

// checkStore shows progress where there is much to read.
func checkStore(cmd *cobra.Command, e *engine.Engine, list *listing, opts engine.CheckOptions) (*engine.Checked, error) {
	_, _, err := sys.TerminalSize(os.Stderr)
	p := newProgress(os.Stderr, list.quiet || err != nil, false)
	p.completed = "Read"
	defer p.close()
	opts.Report = p.report
	return e.Check(cmd.Context(), opts)
}

func showChecked(cmd *cobra.Command, template *format.Template, list *listing, checked *engine.Checked) error {
	wrong, out := checked.Wrong(), cmd.OutOrStdout()
	everything := list.format != "" && list.format != "table" // scripts may want to know of what is harmless, too
	faults := wrong
	if everything {
		faults = checked.Faults
	}
	if len(faults) > 0 {
		header := faultRow{User: "USED BY", Kind: "KIND", ID: "ID", Part: "PART", Path: "PATH", Problem: "PROBLEM"}
		if err := format.Execute(out, template, header, faultRows(checked, faults, list)); err != nil {
			return err
		}
	}
	if !everything && !list.quiet {
		if left := len(checked.Faults) - len(wrong); left > 0 {
			fmt.Fprintf(out, "Harmless: %d left over, or to be made again (see 'tarn prune', 'tarn repair')\n", left)
		}
		if len(wrong) == 0 {
			fmt.Fprintf(out, "Sound: %d images, %d layers, %d blobs\n", checked.Images, checked.Layers, checked.Blobs)
		}
	}
	if len(wrong) > 0 {
		return &exitError{status: 1, err: fmt.Errorf("%w: %d objects (see 'tarn repair')", engine.ErrUnsound, len(wrong))}
	}
	return nil
}

// faultRows makes a row for each thing wrong and each image or container that it concerns.
func faultRows(checked *engine.Checked, faults []engine.Fault, list *listing) []faultRow {
	var rows []faultRow
	for _, f := range faults {
		row := faultRow{
			Kind: string(f.Kind), ID: f.ID, Part: f.Part, Path: f.Path, Harmless: f.Harmless,
			Problem: list.text(oneLine(f.Err), 100),
		}
		if _, encoded, found := strings.Cut(f.ID, ":"); found && !list.noTrunc && len(encoded) >= 64 {
			row.ID = encoded[:12]
		}
		users := checked.Users(f)
		if len(users) == 0 {
			users = []string{"<none>"}
		}
		for _, user := range users {
			row.User = list.text(user, 40)
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b faultRow) int { return strings.Compare(a.User, b.User) })
	return rows
}
