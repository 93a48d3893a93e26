package main

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// scripted gives one value after another.
func scripted(name string, order *[]string, values ...float64) Side {
	return Side{Name: name, Measure: func(context.Context) (float64, error) {
		if len(values) == 0 {
			return 0, errors.New("no value left")
		}
		*order = append(*order, name)
		v := values[0]
		values = values[1:]
		return v, nil
	}}
}

func TestComparisonTakesTurnsAndMedians(t *testing.T) {
	var order []string
	c := Comparison{
		Work: "w", Unit: Seconds, Bar: 0.5, Runs: 3,
		A: scripted("a", &order, 99, 1, 3, 2), // the first is practice
		B: scripted("b", &order, 99, 4, 9, 2),
	}
	row, err := c.Row(t.Context(), &Lab{})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, ""); got != "abbaabba" {
		t.Errorf("the order was %s", got)
	}
	if row.Ratio != "0.50" || !row.Met {
		t.Errorf("row: %+v", row)
	}
}

func TestLimitMissed(t *testing.T) {
	var order []string
	l := Limit{Work: "w", Unit: Bytes, Bar: 10, Runs: 2, Side: scripted("a", &order, 8, 14)}
	row, err := l.Row(t.Context(), &Lab{})
	if err != nil {
		t.Fatal(err)
	}
	if row.Met {
		t.Errorf("a median of 11 meets a bar of 10: %+v", row)
	}
}

func TestErrorNamesItsSide(t *testing.T) {
	var order []string
	c := Comparison{Runs: 1, A: scripted("a", &order, 1, 1), B: scripted("broken", &order)}
	if _, err := c.Row(t.Context(), &Lab{}); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("err = %v", err)
	}
}
