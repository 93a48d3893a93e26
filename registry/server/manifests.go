package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/tarnfs/tarn/image"
)

// maxTagParameters is how many tags one request may set.
const maxTagParameters = 100

// reference reads the last element of a manifest's path.
func (r *call) reference() (Reference, error) {
	if image.ValidTag(r.last) {
		return Reference{Tag: r.last}, nil
	}
	d, err := image.ParseDigest(r.last)
	return Reference{Digest: d}, err
}

func (h *Handler) getManifest(w http.ResponseWriter, r *call) error {
	ref, err := r.reference()
	if err != nil {
		return err
	}
	m, err := h.content.Manifest(r.Context(), r.repository, ref)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", r.last, r.repository, err)
	}
	serveContent(w, r, m.MediaType, m.Digest, bytes.NewReader(m.Raw))
	return nil
}

func (h *Handler) putManifest(w http.ResponseWriter, r *call) error {
	ref, err := r.reference()
	if err != nil {
		return err
	}
	tags := r.URL.Query()["tag"] // only together with a digest
	if ref.Tag != "" {
		tags = []string{ref.Tag}
	}
	for _, tag := range tags {
		if !image.ValidTag(tag) || len(tags) > maxTagParameters {
			return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%.130q: not a tag, or one of more than %d", tag, maxTagParameters)
		}
	}
	select {
	case h.manifestPuts <- struct{}{}:
		defer func() { <-h.manifestPuts }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, image.MaxManifestSize))
	if err != nil {
		return readError(err)
	}
	m, doc, err := checkManifest(raw, r.Header.Get("Content-Type"), ref.Digest)
	if err != nil {
		return err
	}
	if err := h.checkBlobs(r, doc); err != nil {
		return err
	}
	if err := h.content.PutManifest(r.Context(), r.repository, m, doc, tags); err != nil {
		return err
	}
	h.logf("pushed %s %s", strings.Join(append([]string{r.repository}, tags...), ":"), m.Digest)
	if ref.Digest != "" {
		for _, tag := range tags {
			w.Header().Add("OCI-Tag", tag)
		}
	}
	if doc.Subject != nil {
		w.Header().Set("OCI-Subject", string(doc.Subject.Digest))
	}
	w.Header().Set("Location", "/v2/"+r.repository+"/manifests/"+string(m.Digest))
	w.Header().Set("Docker-Content-Digest", string(m.Digest))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// checkManifest checks what a client sent against what it says of it.
func checkManifest(raw []byte, contentType string, want image.Digest) (Manifest, *image.Document, error) {
	m := Manifest{Digest: want, Raw: raw}
	if want == "" {
		m.Digest = image.DigestBytes(raw)
	} else {
		sum, err := want.NewHash()
		if err != nil {
			return Manifest{}, nil, err
		}
		sum.Write(raw)
		if !want.Matches(sum) {
			return Manifest{}, nil, fmt.Errorf("%w: got %s, want %s", ErrDigest, want.Of(sum), want)
		}
	}
	doc, err := image.ParseDocument(raw)
	if err != nil {
		return Manifest{}, nil, err
	}
	m.MediaType = doc.MediaType
	if contentType == "" {
		return m, doc, nil
	}
	if mediaType, _, err := mime.ParseMediaType(contentType); err != nil || mediaType != doc.MediaType {
		return Manifest{}, nil, refuse(http.StatusBadRequest, "MANIFEST_INVALID",
			"the manifest is of type %q, the request says %.100q", doc.MediaType, contentType)
	}
	return m, doc, nil
}

// checkBlobs checks that what a manifest is made of was pushed, and is as long as it says. What an
// index lists, and subjects, may come later or not at all.
func (h *Handler) checkBlobs(r *call, doc *image.Document) error {
	for _, blob := range doc.Blobs() {
		if !blob.Distributable() {
			continue
		}
		content, err := h.content.Blob(r.Context(), blob.Digest)
		if errors.Is(err, ErrBlob) {
			return fmt.Errorf("%w: %s", ErrMissing, blob.Digest)
		}
		if err != nil {
			return err
		}
		size, err := content.Seek(0, io.SeekEnd)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
		if size != blob.Size {
			return fmt.Errorf("%w: %s has %d bytes, the manifest says %d", image.ErrDocument, blob.Digest, size, blob.Size)
		}
	}
	return nil
}

func (h *Handler) deleteManifest(w http.ResponseWriter, r *call) error {
	ref, err := r.reference()
	if err != nil {
		return err
	}
	if err := h.content.DeleteManifest(r.Context(), r.repository, ref); err != nil {
		return fmt.Errorf("%s in %s: %w", r.last, r.repository, err)
	}
	h.logf("deleted %s in %s", r.last, r.repository)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// readError is about a body that could not be read: the connection broke, or there was too much.
func readError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge
	}
	return refuse(http.StatusBadRequest, "UNKNOWN", "the request ended too early")
}
