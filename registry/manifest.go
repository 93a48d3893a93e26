package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tarnfs/tarn/image"
)

// Document is a manifest, an index, or what else lies where manifests do, as the registry has it.
type Document struct {
	MediaType string // as the registry says; it is not trusted for parsing
	Digest    image.Digest
	Raw       []byte
}

// acceptManifests lists what is understood. Docker's registry converts to schema 1 for clients that do not say.
func acceptManifests() []string {
	return []string{
		image.MediaTypeManifest, image.MediaTypeIndex, image.MediaTypeDockerManifest, image.MediaTypeDockerList,
	}
}

// Resolve asks for the digest of ref's manifest with a single HEAD request. The digest is "" if the
// registry does not tell it.
func (r *Repository) Resolve(ctx context.Context, ref image.Reference) (image.Digest, error) {
	return read(r, func(e *endpoint) (image.Digest, error) {
		header := http.Header{"Accept": acceptManifests()}
		res, err := e.do(ctx, r.client, false, http.MethodHead, e.url("manifests/%s", target(ref)), header,
			http.StatusOK, http.StatusMethodNotAllowed)
		if err != nil {
			return "", err
		}
		drain(res)
		digest, err := image.ParseDigest(res.Header.Get("Docker-Content-Digest"))
		if err != nil || res.StatusCode != http.StatusOK {
			return "", nil //nolint:nilerr // the registry does not say: not an error
		}
		return digest, nil
	})
}

// Manifest gets ref's manifest or index. Asked for by digest, it has that digest.
func (r *Repository) Manifest(ctx context.Context, ref image.Reference) (*Document, error) {
	return read(r, func(e *endpoint) (*Document, error) {
		header := http.Header{"Accept": acceptManifests()}
		res, err := e.do(ctx, r.client, false, http.MethodGet, e.url("manifests/%s", target(ref)), header, http.StatusOK)
		if err != nil {
			return nil, err
		}
		defer drain(res)
		raw, err := readLimited(res.Body, image.MaxManifestSize)
		if err != nil {
			return nil, fmt.Errorf("manifest of %s: %w", ref, err)
		}
		return newDocument(raw, res.Header.Get("Content-Type"), ref.Digest())
	})
}

func newDocument(raw []byte, mediaType string, want image.Digest) (*Document, error) {
	if want == "" {
		want = image.DigestBytes(raw)
	}
	sum, err := want.NewHash()
	if err != nil {
		return nil, err
	}
	sum.Write(raw)
	if !want.Matches(sum) {
		return nil, fmt.Errorf("%w: manifest %s, got %s", ErrDigest, want, want.Of(sum))
	}
	mediaType, _, _ = strings.Cut(mediaType, ";")
	return &Document{MediaType: mediaType, Digest: want, Raw: raw}, nil
}

// readLimited reads all of a body of at most limit bytes.
func readLimited(body io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrProtocol, limit)
	}
	return data, nil
}

// read asks the mirrors, then the registry itself, until one has it. A refusal of a mirror is not
// the registry's.
func read[T any](r *Repository, ask func(*endpoint) (T, error)) (T, error) {
	var (
		none T
		errs []error
	)
	for _, source := range r.sources() {
		got, err := ask(source)
		if err == nil {
			return got, nil
		}
		if errors.Is(err, context.Canceled) {
			return none, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return none, errs[0]
	}
	// The registry's own answer first: it decides, for instance, whether something is not found.
	last := len(errs) - 1
	return none, fmt.Errorf("%w (and of its mirrors: %w)", errs[last], errors.Join(errs[:last]...))
}

// PutManifest uploads a manifest or index under ref's tag, or under its digest. If it is about another
// manifest and the registry does not keep account of that, it is listed under the tag that the
// specification has for it ("Referrers Tag Schema").
func (r *Repository) PutManifest(ctx context.Context, ref image.Reference, mediaType string, raw []byte) error {
	retries := retry{backoff: r.client.backoff}
	for {
		err := r.putManifest(ctx, ref, mediaType, raw)
		if err == nil {
			return nil
		}
		if err := retries.again(ctx, err); err != nil {
			return fmt.Errorf("push %s: %w", ref.Familiar(), err)
		}
	}
}

func (r *Repository) putManifest(ctx context.Context, ref image.Reference, mediaType string, raw []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.origin.url("manifests/%s", target(ref)), strings.NewReader(string(raw)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	res, err := r.origin.send(req, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	drain(res)
	if got := res.Header.Get("Docker-Content-Digest"); got != "" && got != string(image.DigestBytes(raw)) {
		return fmt.Errorf("%w: it stored manifest %s as %.100s", ErrDigest, image.DigestBytes(raw), got)
	}
	doc, err := image.ParseDocument(raw)
	if err != nil || doc.Subject == nil || res.Header.Get("OCI-Subject") != "" {
		return nil //nolint:nilerr // what the registry accepts need not be understood here
	}
	return r.listReferrer(ctx, doc, raw)
}

// listReferrer adds a manifest to the index of those that are about its subject. Two clients that do so
// at once may lose one, as the specification says.
func (r *Repository) listReferrer(ctx context.Context, doc *image.Document, raw []byte) error {
	tag := r.name.WithTag(referrersTag(doc.Subject.Digest))
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}
	current, err := r.Manifest(ctx, tag)
	if err == nil {
		var parsed *image.Index
		if parsed, err = image.ParseIndex(current.Raw); err == nil {
			index = *parsed
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	digest := image.DigestBytes(raw)
	if slices.ContainsFunc(index.Manifests, func(d image.Descriptor) bool { return d.Digest == digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, image.Descriptor{
		MediaType: doc.MediaType, Digest: digest, Size: int64(len(raw)), ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	})
	list, err := json.Marshal(&index)
	if err != nil {
		return err
	}
	return r.putManifest(ctx, tag, image.MediaTypeIndex, list)
}

func referrersTag(subject image.Digest) string { return subject.Algorithm() + "-" + subject.Hex() }

const (
	maxTagPage = 16 << 20
	maxPages   = 10_000
)

// Tags lists all tags of the repository, in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	return read(r, func(e *endpoint) ([]string, error) {
		var all []string
		next := e.url("tags/list")
		for range maxPages {
			var page struct {
				Tags []string `json:"tags"`
			}
			link, err := e.getJSON(ctx, r.client, next, "application/json", &page)
			if err != nil {
				return nil, fmt.Errorf("tags of %s: %w", r.Name(), err)
			}
			all = append(all, page.Tags...)
			if link == "" {
				return all, nil
			}
			next = link
		}
		return nil, fmt.Errorf("tags of %s: %w: no end of pages", r.Name(), ErrProtocol)
	})
}

// Referrers lists the manifests whose subject is digest: signatures, attestations and the like
// (distribution-spec 1.1, "Listing Referrers"). Of a registry without that API the tag of the
// spec's referrers tag schema is read.
func (r *Repository) Referrers(ctx context.Context, digest image.Digest) ([]image.Descriptor, error) {
	return read(r, func(e *endpoint) ([]image.Descriptor, error) {
		var all []image.Descriptor
		next := e.url("referrers/%s", digest)
		for range maxPages {
			var page image.Index
			link, err := e.getJSON(ctx, r.client, next, image.MediaTypeIndex, &page)
			if status, ok := errors.AsType[*statusError](err); ok && len(all) == 0 &&
				(status.status == http.StatusNotFound || status.status == http.StatusBadRequest || status.status == http.StatusMethodNotAllowed) {
				return r.taggedReferrers(ctx, digest)
			}
			if err != nil {
				return nil, fmt.Errorf("referrers of %s: %w", digest, err)
			}
			for _, d := range page.Manifests {
				if err := d.Validate(); err != nil {
					return nil, fmt.Errorf("referrers of %s: %w", digest, err)
				}
			}
			all = append(all, page.Manifests...)
			if link == "" {
				return all, nil
			}
			next = link
		}
		return nil, fmt.Errorf("referrers of %s: %w: no end of pages", digest, ErrProtocol)
	})
}

func (r *Repository) taggedReferrers(ctx context.Context, digest image.Digest) ([]image.Descriptor, error) {
	doc, err := r.Manifest(ctx, r.name.WithTag(referrersTag(digest)))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(doc.Raw)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", digest, err)
	}
	return index.Manifests, nil
}

// getJSON reads one page of a list and gives the URL of the next one.
func (e *endpoint) getJSON(ctx context.Context, c *Client, from, accept string, into any) (next string, err error) {
	res, err := e.do(ctx, c, false, http.MethodGet, from, http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		return "", err
	}
	defer drain(res)
	raw, err := readLimited(res.Body, maxTagPage)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nextPage(res)
}

// nextPage reads the Link header (RFC 8288) that points to more of a list, on the same host only.
func nextPage(res *http.Response) (string, error) {
	link := res.Header.Get("Link")
	if link == "" {
		return "", nil
	}
	target, params, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !found || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
		return "", nil
	}
	ref, err := url.Parse(target)
	if err != nil {
		return "", fmt.Errorf("%w: next page: %w", ErrProtocol, err)
	}
	next := res.Request.URL.ResolveReference(ref)
	if next.Host != res.Request.URL.Host {
		return "", fmt.Errorf("%w: the next page is on another host, %.100q", ErrProtocol, next.Host)
	}
	return next.String(), nil
}
