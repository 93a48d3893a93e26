// Package server is the registry's side of the OCI distribution protocol (version 1.1,
// github.com/opencontainers/distribution-spec): an [http.Handler] over a [Content], which says where
// manifests and blobs are kept. [Memory] keeps them in memory, for tests and as an example.
//
// Clients are hostile: names, digests and media types are checked before a Content sees them, what is
// read into memory is bounded, uploads are bounded in number and age, and nothing that a client
// sent can be read before its digest was verified.
package server

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/tarnfs/tarn/image"
)

// Errors by which a Content tells the handler what to answer.
var (
	ErrName       = errors.New("not a name that this registry can hold")
	ErrRepository = errors.New("no such repository")
	ErrManifest   = errors.New("no such manifest")
	ErrBlob       = errors.New("no such blob")
	ErrMissing    = errors.New("the manifest refers to a blob that was not pushed")
	ErrDigest     = errors.New("content does not match its digest")
	ErrInUse      = errors.New("a manifest refers to it: delete that first")
	ErrBusy       = errors.New("too much is being pushed at once: try again later")
)

// Reader is what a registry holds. Repositories' names are valid ([image.ValidRepository]), as are tags
// and digests. A blob belongs to the registry, not to a repository, so any repository has it.
type Reader interface {
	// Repositories lists the repositories, in bytewise order.
	Repositories(ctx context.Context) ([]string, error)
	// Tags lists the tags of a repository, in bytewise order. ErrRepository if there is nothing in it.
	Tags(ctx context.Context, repository string) ([]string, error)
	// Manifest finds a manifest of the repository. ErrManifest if it is not there.
	Manifest(ctx context.Context, repository string, ref Reference) (Manifest, error)
	// Referrers gives the repository's manifests whose subject has this digest, in bytewise order of
	// their own digests, from the first one that is greater than after. It gives of each what
	// [Referrer] does. It is no error if there are none.
	Referrers(ctx context.Context, repository string, subject, after image.Digest) iter.Seq2[image.Descriptor, error]
	// Blob opens a blob. ErrBlob if it is not there.
	Blob(ctx context.Context, d image.Digest) (io.ReadSeekCloser, error)
}

// Writer changes what a registry holds.
type Writer interface {
	// NewBlob begins a blob, whose digest will likely be of this algorithm.
	NewBlob(ctx context.Context, algorithm string) (BlobWriter, error)
	// PutManifest adds a manifest to the repository under the tags, or without any by its digest
	// only. doc is what m says. ErrMissing if a blob of it is not there.
	PutManifest(ctx context.Context, repository string, m Manifest, doc *image.Document, tags []string) error
	// DeleteManifest removes a tag, or a manifest with all its tags. ErrManifest if it is not there.
	DeleteManifest(ctx context.Context, repository string, ref Reference) error
	// DeleteBlob removes a blob. ErrBlob if it is not there, ErrInUse if a manifest refers to it.
	DeleteBlob(ctx context.Context, d image.Digest) error
}

// Content is what a registry holds, to be read and changed by any number of clients at once.
type Content interface {
	Reader
	Writer
}

// Reference names a manifest in a repository: by Digest, or if that is empty by Tag.
type Reference struct {
	Tag    string
	Digest image.Digest
}

// Manifest is a manifest or index, byte for byte.
type Manifest struct {
	Digest    image.Digest
	MediaType string
	Raw       []byte
}

// BlobWriter takes in one blob. Only one goroutine uses it at a time.
type BlobWriter interface {
	io.Writer
	// Size gives the number of bytes written.
	Size() int64
	// Commit makes the blob visible if its digest is d, and else wraps ErrDigest. Either way the
	// writer is spent.
	Commit(ctx context.Context, d image.Digest) error
	// Abort drops what was written. After Commit it does nothing.
	Abort() error
}

// Referrer describes a manifest as the list of referrers does (OCI distribution-spec, "Listing
// Referrers"): with its artifact type and annotations.
func Referrer(d image.Digest, size int, doc *image.Document) image.Descriptor {
	return image.Descriptor{
		MediaType: doc.MediaType, Digest: d, Size: int64(size),
		ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}
}
