package engine

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
)

// repository reaches the repository that a name is in.
func repository(ref image.Reference, opts RegistryOptions, access registry.Access, mountFrom ...image.Reference) (*registry.Repository, error) {
	client, err := registry.New(opts)
	if err != nil {
		return nil, err
	}
	return client.Repository(ref, access, mountFrom...)
}

// RemoteTags lists the tags of a repository in a registry, in the registry's order.
func RemoteTags(ctx context.Context, name string, opts RegistryOptions) ([]string, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return nil, err
	}
	if ref.Tag() != "" || ref.Digest() != "" {
		return nil, fmt.Errorf("%w: %s: want a repository, without tag or digest", ErrOption, name)
	}
	repo, err := repository(ref, opts, registry.Pull)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	return repo.Tags(ctx)
}

// RemoteImage is an image in a registry, as "inspect --remote" prints it: Docker's form, with what only a
// registry knows.
type RemoteImage struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      string
	Author       string
	Config       image.RunConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64 // of the layers as they are sent
	RootFS       RootFSReport
	MediaType    string // of the manifest
	Digest       image.Digest
	Layers       []image.Descriptor
	// Platforms lists what an index offers, with the digest of each.
	Platforms []RemotePlatform `json:",omitempty"`
}

// RemotePlatform is one image of an index.
type RemotePlatform struct {
	Platform string
	Digest   image.Digest
}

// InspectRemote describes an image in its registry. Nothing of it is kept, and no layer is fetched.
func InspectRemote(ctx context.Context, name string, platform image.Platform, opts RegistryOptions) (*RemoteImage, error) {
	ref, err := remoteReference(name)
	if err != nil {
		return nil, err
	}
	repo, err := repository(ref, opts, registry.Pull)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	if platform.OS == "" {
		platform = image.HostPlatform()
	}
	remote, err := lookUp(ctx, repo, ref, platform)
	if err != nil {
		return nil, err
	}
	return remote.report()
}

func (r *remoteImage) report() (*RemoteImage, error) {
	report := &RemoteImage{
		ID: string(r.manifest.Config.Digest), RepoTags: []string{}, RepoDigests: []string{r.ref.FamiliarName() + "@" + string(r.target())},
		Comment: r.config.Comment, Author: r.config.Author, Config: r.config.Config,
		Architecture: r.config.Architecture, Variant: r.config.Variant, Os: r.config.OS,
		RootFS:    RootFSReport{Type: cmp.Or(r.config.RootFS.Type, "layers"), Layers: r.config.RootFS.DiffIDs},
		MediaType: r.manifest.MediaType, Digest: r.document.Digest, Layers: r.manifest.Layers,
	}
	if r.ref.Tag() != "" {
		report.RepoTags = append(report.RepoTags, r.ref.Familiar())
	}
	if r.config.Created != nil {
		report.Created = r.config.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, l := range r.manifest.Layers {
		report.Size += l.Size
	}
	if r.index == nil {
		return report, nil
	}
	index, err := image.ParseIndex(r.index.Raw)
	if err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if d.Platform != nil {
			report.Platforms = append(report.Platforms, RemotePlatform{d.Platform.String(), d.Digest})
		}
	}
	return report, nil
}
