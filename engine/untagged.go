package engine

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/store"
)

// What was pushed to a repository can be pulled by its digest for as long as it is there, with or
// without a tag. So that "tarn rmi" frees what it took, it removes these entries, too.

// forget removes the entries that hold by digest what an image stood for in the repositories where it
// lost its last name: its manifest, of an index all that it lists, and what refers to these, such as
// signatures, also under the tags that these have by convention. What another tag of the repository still
// leads to stays.
func (e *Engine) forget(lock *store.Lock, img store.Image) error {
	if img.Name != "" {
		ref, err := image.ParseReference(img.Name)
		if err != nil {
			return err
		}
		return e.forgetIn(lock, ref.Repository(), img)
	}
	entries, err := e.Store.Entries()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Manifest != img.Manifest && entry.Manifest != img.Target() {
			continue
		}
		if err := e.forgetIn(lock, entry.Repository, img); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) forgetIn(lock *store.Lock, repository string, img store.Image) error {
	tagged, err := e.tagged(repository)
	if err != nil {
		return err
	}
	gone, err := e.leadsTo(img.Manifest, img.Target())
	if err != nil {
		return err
	}
	maps.DeleteFunc(gone, func(d image.Digest, _ bool) bool { return tagged[d] })
	entries, err := e.entriesIn(repository)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e store.Entry) bool { return isTagged(e) || tagged[e.Manifest] })
	if err := e.addReferrers(gone, entries); err != nil {
		return err
	}
	for _, entry := range entries {
		if !gone[entry.Manifest] {
			continue
		}
		if err := e.Store.RemoveEntry(lock, entry); err != nil {
			return err
		}
	}
	return nil
}

// removeHeld removes what is held under a name and is no image here, such as a signature. It gives nil
// if there is no such thing.
func (e *Engine) removeHeld(lock *store.Lock, name string) (*Removed, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return nil, nil //nolint:nilerr // then it names nothing
	}
	ref = ref.WithDefaultTag()
	var entry store.Entry
	if ref.Digest() == "" {
		entry, err = e.Store.Entry(ref.Repository(), ref.Tag())
	} else {
		entry, err = e.Store.EntryByDigest(ref.Repository(), ref.Digest())
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		err = e.Store.RemoveEntry(lock, entry)
	}
	if err == nil {
		err = e.forgetIn(lock, entry.Repository, store.Image{Manifest: entry.Manifest})
	}
	if err != nil {
		return nil, err
	}
	removed := &Removed{Untagged: []string{ref.Familiar()}}
	return removed, e.sweep(lock, nil, removed)
}

// isTagged tells whether an entry is there for its own sake: whether it has a tag that somebody chose.
func isTagged(e store.Entry) bool { return e.Tag != "" && subjectOfTag(e.Tag) == "" }

// subjectOfTag gives the digest that a tag is made of, with what is about that manifest: one of cosign's, or that
// of a list of referrers (distribution-spec 1.1, "Referrers Tag Schema"). "" if it is another tag.
func subjectOfTag(tag string) image.Digest {
	for _, suffix := range append(companionTags(), "") {
		if name, found := strings.CutSuffix(tag, suffix); found {
			if d, err := image.ParseDigest(strings.Replace(name, "-", ":", 1)); err == nil {
				return d
			}
		}
	}
	return ""
}

// addReferrers adds to a set those of the entries that refer to what is in it.
func (e *Engine) addReferrers(set map[image.Digest]bool, entries []store.Entry) error {
	type about struct{ manifest, subject image.Digest }
	var known []about
	for _, entry := range entries {
		doc, err := e.Store.Document(entry.Manifest)
		if err != nil {
			return err
		}
		if doc.Subject != nil {
			known = append(known, about{entry.Manifest, doc.Subject.Digest})
		}
		if subject := subjectOfTag(entry.Tag); subject != "" {
			known = append(known, about{entry.Manifest, subject})
		}
	}
	for before := -1; before != len(set); {
		before = len(set)
		for _, one := range known {
			if set[one.subject] {
				set[one.manifest] = true
			}
		}
	}
	return nil
}

// tagged gives the digests of all that a repository's tags lead to.
func (e *Engine) tagged(repository string) (map[image.Digest]bool, error) {
	return e.taggedWithout(repository, nil)
}

// taggedWithout is tagged when the images are gone.
func (e *Engine) taggedWithout(repository string, gone []store.Image) (map[image.Digest]bool, error) {
	images, err := e.imagesIn(repository)
	if err != nil {
		return nil, err
	}
	entries, err := e.entriesIn(repository)
	if err != nil {
		return nil, err
	}
	var roots []image.Digest
	for _, img := range images {
		if !slices.Contains(gone, img) {
			roots = append(roots, img.Manifest, img.Target())
		}
	}
	for _, entry := range entries {
		if isTagged(entry) {
			roots = append(roots, entry.Manifest)
		}
	}
	return e.leadsTo(roots...)
}

// leadsTo gives the manifests themselves, and what those of them that are indexes list, at any depth.
func (e *Engine) leadsTo(manifests ...image.Digest) (map[image.Digest]bool, error) {
	found := make(map[image.Digest]bool)
	for todo := manifests; len(todo) > 0; todo = todo[1:] {
		d := todo[0]
		if found[d] {
			continue
		}
		found[d] = true
		doc, err := e.Store.Document(d)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, image.ErrDocument) {
			continue // an index may list what is not there, or is no manifest
		}
		if err != nil {
			return nil, err
		}
		for _, listed := range doc.Manifests {
			todo = append(todo, listed.Digest)
		}
	}
	return found, nil
}
