package engine

import (
	"sync"

	"github.com/tarnfs/tarn/image"
)

// layerPair says that a blob holds a layer's tar.
type layerPair struct{ blob, diffID image.Digest }

// pairProofs knows of which pairs the store is sure: those of the images in it, for each was compared when its
// image came. What else is there, of pulls that were interrupted, may be paired wrongly by a manifest.
type pairProofs struct {
	engine *Engine

	mu    sync.Mutex
	seen  map[image.Digest]bool // manifests
	pairs map[layerPair]bool
}

func (e *Engine) newPairProofs() *pairProofs {
	return &pairProofs{engine: e, seen: make(map[image.Digest]bool), pairs: make(map[layerPair]bool)}
}

// has looks at images that have come since it was last asked, too.
func (p *pairProofs) has(pair layerPair) (bool, error) {
	if pair.blob == pair.diffID {
		return true, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pairs[pair] {
		return true, nil
	}
	records, err := p.engine.Store.Images()
	if err != nil {
		return false, err
	}
	for _, record := range records {
		if p.seen[record.Manifest] {
			continue
		}
		p.seen[record.Manifest] = true
		forms, err := p.engine.formsOf(record)
		if err != nil {
			continue // a damaged image proves nothing
		}
		for _, f := range forms {
			p.pairs[layerPair{f.Blob, f.DiffID}] = true
		}
	}
	return p.pairs[pair], nil
}
