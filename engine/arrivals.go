package engine

import (
	"context"
	"slices"
	"sync"

	"github.com/tarnfs/tarn/borrow"
)

// arrivals are the layers that come through an engine at the same time: those whose tars have been read, and that are
// not in the store yet. Nobody can borrow from these. So a layer that has much in common with one that was read before
// it waits until that is in the store, which is never long: all that is left to do is an index and a sync.
// Whoever stages a layer publishes or drops it next, and waits for no other layer meanwhile.
type arrivals struct {
	mu   sync.Mutex
	list []*arrival
}

type arrival struct {
	among    *arrivals
	contents *borrow.Contents
	over     chan struct{}
}

// worthWaiting is how many bytes two layers must seem to have in common. Layers of one image often share a few files,
// for which it is not worth to do one after the other.
const worthWaiting = 1 << 20

// join adds a layer, and waits for those that came before and may lend to it.
func (a *arrivals) join(ctx context.Context, contents *borrow.Contents) (*arrival, error) {
	next := &arrival{among: a, contents: contents, over: make(chan struct{})}
	a.mu.Lock()
	before := slices.Clone(a.list)
	a.list = append(a.list, next)
	a.mu.Unlock()
	for _, lender := range before {
		if contents.Common(lender.contents) < worthWaiting {
			continue
		}
		select {
		case <-lender.over:
		case <-ctx.Done():
			next.end()
			return nil, context.Cause(ctx)
		}
	}
	return next, nil
}

// end says that the layer is in the store, or will not be. It may be said again.
func (l *arrival) end() {
	if l == nil {
		return
	}
	l.among.mu.Lock()
	defer l.among.mu.Unlock()
	if i := slices.Index(l.among.list, l); i >= 0 {
		l.among.list = slices.Delete(l.among.list, i, i+1)
		close(l.over)
	}
}
