package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Figure is one thing worth knowing; it may give several rows of the table.
type Figure struct {
	Name    string
	Measure func(ctx context.Context, lab *Lab) ([]Row, error)
}

// Row is one line of the results.
type Row struct {
	Work     string // what was done
	Measured string // the medians
	Ratio    string // or empty, where one thing alone was measured
	Bar      string // what it should be at most
	Met      bool
}

// Unit says how values print.
type Unit int

// The units of a measured value.
const (
	Seconds Unit = iota
	Bytes
)

func (u Unit) format(v float64) string {
	switch {
	case u == Bytes:
		return fmt.Sprintf("%.1f MB", v/1e6)
	case v < 0.1:
		return fmt.Sprintf("%.2f ms", v*1e3)
	default:
		return fmt.Sprintf("%.3f s", v)
	}
}

// Side is one of two things compared.
type Side struct {
	Name    string
	Prepare func(ctx context.Context) error            // before each measurement and not part of it; may be nil
	Measure func(ctx context.Context) (float64, error) // in the comparison's unit
}

// Comparison measures A against B, turn by turn. The median of A should be at most Bar times B's.
type Comparison struct {
	Work string
	Unit Unit
	Bar  float64
	Runs int // of each side
	A, B Side
}

// Row measures, and gives the line for the table.
func (c Comparison) Row(ctx context.Context, lab *Lab) (Row, error) {
	var a, b []float64
	runs := lab.runs(c.Runs)
	for i := range runs + 1 {
		first, second := c.A, c.B
		into, intoSecond := &a, &b
		if i%2 == 1 { // who comes second may find caches warmed by the first: take turns
			first, second, into, intoSecond = second, first, intoSecond, into
		}
		if err := first.measureInto(ctx, into); err != nil {
			return Row{}, err
		}
		if err := second.measureInto(ctx, intoSecond); err != nil {
			return Row{}, err
		}
		if i == 0 { // the first turn is practice
			a, b = nil, nil
		}
	}
	ma, mb := median(a), median(b)
	row := Row{
		Work:     c.Work,
		Measured: fmt.Sprintf("%s %s, %s %s", c.A.Name, c.Unit.format(ma), c.B.Name, c.Unit.format(mb)),
		Ratio:    fmt.Sprintf("%.2f", ma/mb),
		Bar:      fmt.Sprintf("<= %.2f x", c.Bar),
		Met:      ma <= c.Bar*mb,
	}
	row.print(fmt.Sprintf("%d runs each", runs))
	return row, nil
}

// Limit measures one thing, whose median should be at most Bar.
type Limit struct {
	Work string
	Unit Unit
	Bar  float64
	Runs int
	Side Side
}

// Row measures, and gives the line for the table.
func (l Limit) Row(ctx context.Context, lab *Lab) (Row, error) {
	var values []float64
	runs := lab.runs(l.Runs)
	for range runs {
		if err := l.Side.measureInto(ctx, &values); err != nil {
			return Row{}, err
		}
	}
	m := median(values)
	row := Row{
		Work:     l.Work,
		Measured: fmt.Sprintf("%s %s", l.Side.Name, l.Unit.format(m)),
		Bar:      "<= " + l.Unit.format(l.Bar),
		Met:      m <= l.Bar,
	}
	row.print(fmt.Sprintf("%d runs", runs))
	return row, nil
}

func (s Side) measureInto(ctx context.Context, values *[]float64) error {
	if s.Prepare != nil {
		if err := s.Prepare(ctx); err != nil {
			return fmt.Errorf("%s: prepare: %w", s.Name, err)
		}
	}
	v, err := s.Measure(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	*values = append(*values, v)
	return nil
}

func (r Row) print(note string) {
	verdict := "met"
	if !r.Met {
		verdict = "MISSED"
	}
	fmt.Printf("%s: %s; ratio %s, bar %s: %s (%s)\n", r.Work, r.Measured, r.Ratio, r.Bar, verdict, note)
}

// rows collects the rows of several measurements, up to the first error.
func rows(ctx context.Context, lab *Lab, measurements ...interface {
	Row(ctx context.Context, lab *Lab) (Row, error)
},
) ([]Row, error) {
	var all []Row
	for _, m := range measurements {
		row, err := m.Row(ctx, lab)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, nil
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// timed gives how long do takes, in seconds.
func timed(do func() error) (float64, error) {
	start := time.Now()
	err := do()
	return time.Since(start).Seconds(), err
}
