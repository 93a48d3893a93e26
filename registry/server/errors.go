package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/tarnfs/tarn/image"
)

// apiError is an answer that refuses a request (OCI distribution-spec, "Error Codes").
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

func refuse(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// answers maps the errors of a Content to status and code.
func answers(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "more than %d bytes", tooLarge.Limit)
	}
	for _, known := range []struct {
		err    error
		status int
		code   string
	}{
		{ErrName, http.StatusBadRequest, "NAME_INVALID"},
		{ErrRepository, http.StatusNotFound, "NAME_UNKNOWN"},
		{ErrManifest, http.StatusNotFound, "MANIFEST_UNKNOWN"},
		{ErrBlob, http.StatusNotFound, "BLOB_UNKNOWN"},
		{ErrMissing, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN"},
		{ErrDigest, http.StatusBadRequest, "DIGEST_INVALID"},
		{image.ErrDigest, http.StatusBadRequest, "DIGEST_INVALID"},
		{image.ErrDocument, http.StatusBadRequest, "MANIFEST_INVALID"},
		{ErrInUse, http.StatusMethodNotAllowed, "UNSUPPORTED"},
		{ErrBusy, http.StatusTooManyRequests, "TOOMANYREQUESTS"},
	} {
		if errors.Is(err, known.err) {
			return refuse(known.status, known.code, "%v", err)
		}
	}
	return nil
}

// writeError answers with err. What a client cannot help is only logged: it may say more of this
// machine than a client should know.
func (h *Handler) writeError(w http.ResponseWriter, r *http.Request, err error) {
	answer := answers(err)
	if answer == nil {
		if r.Context().Err() == nil {
			h.logf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		answer = refuse(http.StatusInternalServerError, "UNKNOWN", "the server failed; its log says why")
	}
	writeRefusal(w, answer)
}

func writeRefusal(w http.ResponseWriter, e *apiError) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	writeJSON(w, e.status, "application/json", map[string][]item{"errors": {{Code: e.code, Message: e.message}}})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only strings, numbers and lists of them come here
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone cannot be told so
}
