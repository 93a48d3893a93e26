package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/image"
)

// MaxBlobSize is how long a blob may be: 1 TiB.
const MaxBlobSize = 1 << 40

var errNoUpload = refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload: it was finished, dropped, or is too old")

// beginUpload answers a POST: it takes a blob from another repository, or takes in a whole blob, or
// begins an upload in pieces.
func (h *Handler) beginUpload(w http.ResponseWriter, r *call) error {
	query := r.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		d, err := image.ParseDigest(mount)
		if err != nil {
			return err
		}
		if h.hasBlob(r, d) {
			blobCreated(w, r, d)
			return nil
		}
	}
	algorithm := query.Get("digest-algorithm")
	var whole image.Digest
	if query.Get("digest") != "" {
		d, err := image.ParseDigest(query.Get("digest"))
		if err != nil {
			return err
		}
		whole, algorithm = d, d.Algorithm()
	}
	session, err := h.newUpload(r, algorithm)
	if err != nil {
		return err
	}
	defer h.uploads.release(session)
	if whole != "" {
		if err := h.finish(w, r, session, whole); err != nil {
			return errors.Join(err, session.drop()) // nobody knows its ID
		}
		return nil
	}
	session.answer(w, http.StatusAccepted)
	return nil
}

func (h *Handler) newUpload(r *call, algorithm string) (*upload, error) {
	if algorithm == "" {
		algorithm = image.SHA256
	}
	hasRoom, err := h.uploads.makeRoom()
	if err != nil {
		return nil, err
	}
	if !hasRoom {
		return nil, fmt.Errorf("%w: %d uploads are going on", ErrBusy, maxUploads)
	}
	writer, err := h.content.NewBlob(context.WithoutCancel(r.Context()), algorithm)
	if err != nil {
		return nil, err
	}
	return h.uploads.add(r.repository, writer), nil
}

// answer says where the upload goes on, and what of it is here.
func (s *upload) answer(w http.ResponseWriter, status int) {
	s.locate(w)
	w.WriteHeader(status)
}

func (s *upload) locate(w http.ResponseWriter) {
	w.Header().Set("Location", "/v2/"+s.repository+"/blobs/uploads/"+s.id)
	w.Header().Set("Docker-Upload-UUID", s.id)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(s.writer.Size()-1, 0), 10))
}

func (h *Handler) uploadStatus(w http.ResponseWriter, r *call) error {
	session, err := h.uploads.take(r.Context(), r.repository, r.last)
	if err != nil {
		return err
	}
	defer h.uploads.release(session)
	session.answer(w, http.StatusNoContent)
	return nil
}

func (h *Handler) uploadChunk(w http.ResponseWriter, r *call) error {
	session, err := h.uploads.take(r.Context(), r.repository, r.last)
	if err != nil {
		return err
	}
	defer h.uploads.release(session)
	if err := session.receive(w, r); err != nil {
		return err
	}
	session.answer(w, http.StatusAccepted)
	return nil
}

func (h *Handler) finishUpload(w http.ResponseWriter, r *call) error {
	d, err := image.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	session, err := h.uploads.take(r.Context(), r.repository, r.last)
	if err != nil {
		return err
	}
	defer h.uploads.release(session)
	return h.finish(w, r, session, d)
}

func (h *Handler) finish(w http.ResponseWriter, r *call, session *upload, d image.Digest) error {
	if err := session.receive(w, r); err != nil {
		return err
	}
	session.gone = true
	if err := session.writer.Commit(r.Context(), d); err != nil {
		return errors.Join(err, session.writer.Abort())
	}
	blobCreated(w, r, d)
	return nil
}

func (h *Handler) cancelUpload(w http.ResponseWriter, r *call) error {
	session, err := h.uploads.take(r.Context(), r.repository, r.last)
	if err != nil {
		return err
	}
	defer h.uploads.release(session)
	if err := session.drop(); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receive adds the request's body to the upload. If the connection breaks, what came before that is
// kept, for the client to go on from there.
func (s *upload) receive(w http.ResponseWriter, r *call) error {
	length := int64(-1)
	if value := r.Header.Get("Content-Range"); value != "" {
		first, last, err := parseContentRange(value)
		if err != nil {
			return err
		}
		if first != s.writer.Size() {
			s.locate(w)
			return refuse(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID",
				"the chunk begins at %d, the upload has %d bytes", first, s.writer.Size())
		}
		length = last - first + 1
		if r.ContentLength >= 0 && r.ContentLength != length {
			return refuse(http.StatusBadRequest, "SIZE_INVALID", "the range has %d bytes, the body %d", length, r.ContentLength)
		}
	}
	body := http.MaxBytesReader(w, r.Body, MaxBlobSize-s.writer.Size())
	if length >= 0 {
		body = http.MaxBytesReader(w, r.Body, min(length, MaxBlobSize-s.writer.Size()))
	}
	source := &bodyReader{Reader: body}
	n, err := io.Copy(s.writer, source)
	switch {
	case source.err != nil:
		return readError(source.err)
	case err != nil:
		return errors.Join(err, s.drop())
	case length >= 0 && n != length:
		return refuse(http.StatusBadRequest, "SIZE_INVALID", "the range has %d bytes, the body %d", length, n)
	}
	return nil
}

// bodyReader tells a client's failure from the disk's.
type bodyReader struct {
	io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// parseContentRange reads "first-last", as the distribution specification has it, or the form of
// RFC 9110, "bytes first-last/size".
func parseContentRange(value string) (first, last int64, err error) {
	value = strings.TrimPrefix(value, "bytes ")
	value, _, _ = strings.Cut(value, "/")
	from, to, found := strings.Cut(value, "-")
	first, err = strconv.ParseInt(from, 10, 64)
	if err == nil {
		last, err = strconv.ParseInt(to, 10, 64)
	}
	if err != nil || !found || first < 0 || last < first || last >= MaxBlobSize {
		return 0, 0, refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "%.60q is not a range of bytes", value)
	}
	return first, last, nil
}
