package server

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tarnfs/tarn/image"
)

const octetStream = "application/octet-stream"

func (h *Handler) getBlob(w http.ResponseWriter, r *call) error {
	d, err := image.ParseDigest(r.last)
	if err != nil {
		return err
	}
	blob, err := h.content.Blob(r.Context(), d)
	if err != nil {
		return err
	}
	defer blob.Close() //nolint:errcheck // read only
	serveContent(w, r, octetStream, d, blob)
	return nil
}

// serveContent answers with content, or with the range of it that was asked for.
func serveContent(w http.ResponseWriter, r *call, mediaType string, d image.Digest, content io.ReadSeeker) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Content-Digest", string(d))
	header.Set("ETag", `"`+string(d)+`"`)
	http.ServeContent(w, r.Request, "", time.Time{}, content)
}

func (h *Handler) deleteBlob(w http.ResponseWriter, r *call) error {
	d, err := image.ParseDigest(r.last)
	if err != nil {
		return err
	}
	if err := h.content.DeleteBlob(r.Context(), d); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	h.logf("deleted blob %s", d)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// hasBlob reports whether the blob is there.
func (h *Handler) hasBlob(r *call, d image.Digest) bool {
	blob, err := h.content.Blob(r.Context(), d)
	if err != nil {
		return false
	}
	_ = blob.Close() // read only
	return true
}

func blobCreated(w http.ResponseWriter, r *call, d image.Digest) {
	w.Header().Set("Location", "/v2/"+r.repository+"/blobs/"+string(d))
	w.Header().Set("Docker-Content-Digest", string(d))
	w.WriteHeader(http.StatusCreated)
}
