package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/sys"
)

func newRepairCmd(a *app) *cobra.Command {
	var (
		reg  registryFlags
		opts engine.RepairOptions
	)
	cmd := &cobra.Command{
		Use:     "repair [flags]",
		GroupID: groupStore,
		Short:   "Mend what 'check --deep' finds",
		Long: `Mend what 'tarn check --deep' finds: indexes and tables are made again from the layers'
tars; what is damaged in tars, manifests and configs is looked for in other layers, in the
compressed forms that are kept, in archives ('tarn save' makes them), and in the registries
that the images are from. Of what can be had in parts, only the damaged spans are fetched.
Nothing is written before it has been verified, and what is sound stays as it is.

What could not be mended is listed, and the exit status is 1.`,
		Example: `  tarn repair
  tarn repair --from backup.tar --offline`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Registry = reg.options(a)
			e, err := a.engine()
			if err != nil {
				return err
			}
			repaired, err := repairStore(cmd, e, opts)
			if err != nil {
				return err
			}
			return showRepaired(cmd, repaired)
		},
	}
	flags := cmd.Flags()
	reg.add(flags)
	listVar(flags, &opts.From, "from", "take what is missing from an archive, a `file` or a directory (may be given again)")
	flags.BoolVar(&opts.Offline, "offline", false, "ask no registry")
	return cmd
}

func repairStore(cmd *cobra.Command, e *engine.Engine, opts engine.RepairOptions) (*engine.Repaired, error) {
	_, _, err := sys.TerminalSize(os.Stderr)
	p := newProgress(os.Stderr, err != nil, false)
	p.completed = "Read"
	defer p.close()
	opts.Report = p.report
	return e.Repair(cmd.Context(), opts)
}

func showRepaired(cmd *cobra.Command, repaired *engine.Repaired) error {
	out := cmd.OutOrStdout()
	for _, f := range repaired.Mended {
		fmt.Fprintf(out, "Mended: %s %s\n", f.Kind, f.Path)
	}
	lost := 0
	for _, f := range repaired.Left {
		why := oneLine(f.Err)
		if f.Why != nil {
			why += "; " + oneLine(f.Why)
		}
		fmt.Fprintf(out, "Not mended: %s %s: %s\n", f.Kind, f.Path, why)
		if !f.Harmless {
			lost++
		}
	}
	if len(repaired.Mended)+len(repaired.Left) == 0 {
		fmt.Fprintln(out, "Nothing to mend")
	}
	if lost > 0 {
		return &exitError{status: 1, err: fmt.Errorf("%w: %d objects could not be mended (see 'tarn repair --help')", engine.ErrUnsound, lost)}
	}
	return nil
}
