package main

import (
	"context"
	"os"
)

// importFigure measures the way from a tar to a root that can run and survives a power cut,
// against unpacking it.
func importFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	empty := func(dir string) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if err := command(ctx, "cat", lab.tar); err != nil { // both read it from the page cache
				return err
			}
			return settle(ctx)
		}
	}
	fresh := lab.newStore("fresh")
	return rows(ctx, lab, Comparison{
		Work: "import a Debian tar", Unit: Seconds, Bar: 0.5, Runs: 7,
		A: Side{
			Name: "tarn import", Prepare: empty(lab.path("fresh")),
			Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error { return lab.tarnRun(ctx, fresh, "import", "--name", "debian", lab.tar) })
			},
		},
		B: Side{
			Name: "tar xf + sync", Prepare: empty(lab.path("unpacked")),
			Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error {
					if err := command(ctx, "tar", "-x", "-f", lab.tar, "-C", lab.path("unpacked")); err != nil {
						return err
					}
					return command(ctx, "sync")
				})
			},
		},
	})
}
