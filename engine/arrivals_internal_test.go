package engine

import (
	"context"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/borrow"
)

// contentsOf has one file for each text, of a length that makes it worth to wait.
func contentsOf(t *testing.T, texts ...string) *borrow.Contents {
	t.Helper()
	var c borrow.Contents
	for i, text := range texts {
		w, _ := c.Observe(int64(i)*2*worthWaiting, worthWaiting)
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
	}
	return &c
}

// TestArrivals: a layer waits for those before it that have something in common with it, until they are in the store
// or are given up, and for no others.
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all arrivals
		join := func(ctx context.Context, texts ...string) (joined chan *arrival) {
			joined = make(chan *arrival, 1)
			contents := contentsOf(t, texts...)
			go func() {
				a, err := all.join(ctx, contents)
				if err == nil {
					joined <- a
				}
				close(joined)
			}()
			synctest.Wait()
			return joined
		}
		first, other := <-join(t.Context(), "a", "b"), <-join(t.Context(), "x")
		second, third := join(t.Context(), "b", "c"), join(t.Context(), "c", "x")
		require.Empty(t, second)
		require.Empty(t, third)
		ctx, cancel := context.WithCancel(t.Context())
		impatient := join(ctx, "a", "c")
		cancel()
		require.Nil(t, <-impatient)
		require.Len(t, all.list, 4, "who does not wait any more is waited for by nobody")

		first.end()
		first.end()
		synctest.Wait()
		require.Len(t, second, 1)
		require.Empty(t, third, "the second one is still on its way")
		other.end()
		(<-second).end()
		(<-third).end()
		require.Empty(t, all.list)
	})
}
