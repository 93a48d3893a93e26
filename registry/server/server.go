package server

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// Options says how a registry behaves. The zero Options is a registry that can be written to.
type Options struct {
	// ReadOnly refuses whatever would change something.
	ReadOnly bool
	// Log is told in one line what was changed, and what went wrong here; nil for nobody.
	Log func(line string)
}

// maxManifestPuts bounds how many manifests are held in memory to be pushed.
const maxManifestPuts = 32

// Handler answers for a registry.
type Handler struct {
	content      Content
	options      Options
	uploads      *uploads
	manifestPuts chan struct{}
}

// New makes a registry of content. Close it at the end.
func New(content Content, options Options) *Handler {
	return &Handler{
		content: content, options: options, uploads: newUploads(time.Now),
		manifestPuts: make(chan struct{}, maxManifestPuts),
	}
}

func (h *Handler) logf(format string, args ...any) {
	if h.options.Log != nil {
		h.options.Log(fmt.Sprintf(format, args...))
	}
}

// Close drops the uploads that are not finished.
func (h *Handler) Close() error { return h.uploads.close() }

// call is one request, taken apart.
type call struct {
	*http.Request
	repository string // valid
	last       string // the last element of the path
}

type endpoint func(w http.ResponseWriter, r *call) error

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w, r = watch(w, r)
	if err := h.serve(w, r); err != nil {
		h.writeError(w, r, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	methods, c, err := h.route(r)
	if err != nil {
		return err
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	handle, known := methods[method]
	if !known {
		for name := range methods {
			w.Header().Add("Allow", name)
		}
		return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s cannot be done to this", r.Method)
	}
	if method != http.MethodGet {
		if err := h.mayWrite(r); err != nil {
			return err
		}
	}
	return handle(w, c)
}

// mayWrite also keeps web pages out. A page can make its visitor's browser write to a registry on the
// loopback interface, by a name of its own that leads there, and browsers then say where the page
// is from. Registries' clients have no page.
func (h *Handler) mayWrite(r *http.Request) error {
	if h.options.ReadOnly {
		return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
	}
	if r.Header.Get("Origin") != "" {
		return refuse(http.StatusForbidden, "DENIED", "web pages may not write to this registry")
	}
	return nil
}

// route takes the path apart from its end, since the name of a repository may hold slashes, and
// even the words that separate it from the rest.
func (h *Handler) route(r *http.Request) (map[string]endpoint, *call, error) {
	path, found := strings.CutPrefix(r.URL.Path, "/v2/")
	if r.URL.Path == "/v2" || found && path == "" {
		return map[string]endpoint{http.MethodGet: h.ping}, &call{Request: r}, nil
	}
	if found && path == "_catalog" {
		return map[string]endpoint{http.MethodGet: h.catalog}, &call{Request: r}, nil
	}
	rest, last, split := cutLast(path)
	if !found || !split {
		return nil, nil, refuse(http.StatusNotFound, "UNSUPPORTED", "this is a container registry: pull from it, or see /v2/")
	}
	var (
		methods map[string]endpoint
		name    string
	)
	switch {
	case cut(rest, "/blobs/uploads", &name) && last == "", cut(rest, "/blobs", &name) && last == "uploads":
		methods = map[string]endpoint{http.MethodPost: h.beginUpload}
	case cut(rest, "/blobs/uploads", &name):
		methods = map[string]endpoint{
			http.MethodGet: h.uploadStatus, http.MethodPatch: h.uploadChunk,
			http.MethodPut: h.finishUpload, http.MethodDelete: h.cancelUpload,
		}
	case cut(rest, "/blobs", &name):
		methods = map[string]endpoint{http.MethodGet: h.getBlob, http.MethodDelete: h.deleteBlob}
	case cut(rest, "/manifests", &name):
		methods = map[string]endpoint{
			http.MethodGet: h.getManifest, http.MethodPut: h.putManifest, http.MethodDelete: h.deleteManifest,
		}
	case cut(rest, "/referrers", &name):
		methods = map[string]endpoint{http.MethodGet: h.referrers}
	case cut(rest, "/tags", &name) && last == "list":
		methods = map[string]endpoint{http.MethodGet: h.tags}
	default:
		return nil, nil, refuse(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
	if !image.ValidRepository(name) {
		return nil, nil, refuse(http.StatusBadRequest, "NAME_INVALID", "%.100q is not a repository's name", name)
	}
	return methods, &call{Request: r, repository: name, last: last}, nil
}

func cutLast(path string) (rest, last string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// cut reports whether s ends with suffix, and sets before to what is in front of it.
func cut(s, suffix string, before *string) bool {
	name, found := strings.CutSuffix(s, suffix)
	if found {
		*before = name
	}
	return found
}

func (h *Handler) ping(w http.ResponseWriter, _ *call) error {
	writeJSON(w, http.StatusOK, "application/json", struct{}{})
	return nil
}
