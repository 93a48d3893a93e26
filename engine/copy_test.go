package engine_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/internal/testenv"
	"github.com/tarnfs/tarn/registry"
	"github.com/tarnfs/tarn/store"
)

// writeKey writes a public key as cosign does, and gives the file.
func writeKey(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "cosign.pub")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return path
}

// payload is what cosign signs (cosign, specs/SIGNATURE_SPEC.md).
func payload(digest image.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"any"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
}

// sign puts a signature where "cosign sign --key" does: a manifest under a tag made of the digest.
func (r remote) sign(repo string, digest image.Digest, key crypto.Signer, signed []byte) {
	sum := sha256.Sum256(signed)
	message, hash := sum[:], crypto.SignerOpts(crypto.SHA256)
	if _, ok := key.(ed25519.PrivateKey); ok {
		message, hash = signed, crypto.Hash(0)
	}
	signature, err := key.Sign(rand.Reader, message, hash)
	require.NoError(r.t, err)
	r.pushSignature(repo, digest, signature, signed)
}

func (r remote) pushSignature(repo string, digest image.Digest, signature, signed []byte) {
	l := r.pushBlob(repo, "application/vnd.dev.cosign.simplesigning.v1+json", signed)
	l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature)}
	config := r.pushBlob(repo, image.MediaTypeConfig, []byte(`{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":["`+string(l.Digest)+`"]}}`))
	r.pushManifest(repo, digest.Algorithm()+"-"+digest.Hex()+".sig", image.MediaTypeManifest,
		image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Config: config, Layers: []image.Descriptor{l}})
}

func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return map[string]crypto.Signer{"ecdsa": p256, "rsa": long, "ed25519": edwards}
}

func TestPullVerifiesSignatures(t *testing.T) {
	reg := testenv.StartRegistry(t, testenv.RegistryOptions{})
	r := remote{t, reg.Host}
	pull := func(name, key string) error {
		e := newEngine(t)
		_, err := e.Pull(t.Context(), reg.Host+"/"+name, engine.PullOptions{VerifyKey: key})
		if err != nil {
			for _, dir := range []string{"layers", "images", "blobs"} {
				requireEmpty(t, e, dir)
			}
			return err
		}
		_, err = e.Pull(t.Context(), reg.Host+"/"+name, engine.PullOptions{VerifyKey: key})
		require.NoError(t, err, "again")
		return nil
	}
	keys := signers(t)
	stranger := writeKey(t, signers(t)["ecdsa"].Public())
	for kind, key := range keys {
		public := writeKey(t, key.Public())
		good := r.pushImage(kind, "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 1, 1000)))
		require.ErrorIs(t, pull(kind, public), engine.ErrSignature, "not signed yet")
		r.sign(kind, good.Digest, key, payload(good.Digest))
		require.NoError(t, pull(kind, public), kind)
		require.ErrorIs(t, pull(kind, stranger), engine.ErrSignature, "of another key")
	}
	key := keys["ecdsa"]
	public := writeKey(t, key.Public())
	other := r.pushImage("other", "latest", image.HostPlatform(), gzipLayer(t, layerTar(t, 2, 1000)))
	for name, signed := range map[string][]byte{
		"of another image":        payload(image.DigestBytes(nil)),
		"of another kind of text": bytes.Replace(payload(other.Digest), []byte("cosign container"), []byte("some other"), 1),
		"of no text at all":       []byte("hello"),
	} {
		r.sign("other", other.Digest, key, signed)
		require.ErrorIs(t, pull("other", public), engine.ErrSignature, name)
	}
	r.pushSignature("other", other.Digest, []byte("no signature"), payload(other.Digest))
	require.ErrorIs(t, pull("other", public), engine.ErrSignature)

	t.Run("of an index", func(t *testing.T) {
		index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{
			r.pushImage("index", "", image.HostPlatform(), gzipLayer(t, layerTar(t, 3, 1000))),
		}}
		d := r.pushManifest("index", "latest", image.MediaTypeIndex, index)
		r.sign("index", d.Digest, key, payload(d.Digest))
		require.NoError(t, pull("index", public))
	})
	for name, text := range map[string]string{"empty": "", "private": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "garbage": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.ErrorContains(t, pull("ecdsa", path), "public key")
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	require.ErrorIs(t, pull("ecdsa", writeKey(t, short.Public())), engine.ErrOption)
}

// publish makes an index of two platforms with a signature and referrers, and gives its digest.
func (r remote) publish(repo string, key crypto.Signer) (index, referrer image.Descriptor) {
	children := []image.Descriptor{
		r.pushImage(repo, "", image.Platform{OS: "linux", Architecture: "amd64"}, gzipLayer(r.t, layerTar(r.t, 1, 1<<20))),
		r.pushImage(repo, "", image.Platform{OS: "linux", Architecture: "arm64"}, gzipLayer(r.t, layerTar(r.t, 2, 1<<20))),
	}
	index = r.pushManifest(repo, "latest", image.MediaTypeIndex, image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: children})
	r.sign(repo, index.Digest, key, payload(index.Digest))
	r.sign(repo, children[0].Digest, key, payload(children[0].Digest))
	empty := r.pushBlob(repo, "application/vnd.oci.empty.v1+json", []byte("{}"))
	report := r.pushBlob(repo, "text/plain", []byte("a report"))
	referrer = r.pushManifest(repo, "", image.MediaTypeManifest, image.Manifest{
		SchemaVersion: 2, MediaType: image.MediaTypeManifest, ArtifactType: "application/x.report",
		Config: empty, Layers: []image.Descriptor{report}, Subject: &children[0],
	})
	referrer.ArtifactType = "application/x.report"
	// This registry keeps no account of referrers: the tag of the specification does.
	r.pushManifest(repo, strings.Replace(string(children[0].Digest), ":", "-", 1), image.MediaTypeIndex,
		image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{referrer}})
	return index, referrer
}

func TestCopy(t *testing.T) {
	a, b := testenv.StartRegistry(t, testenv.RegistryOptions{}), testenv.StartRegistry(t, testenv.RegistryOptions{})
	key := signers(t)["ecdsa"]
	public := writeKey(t, key.Public())
	index, referrer := remote{t, a.Host}.publish("from", key)

	copied, err := engine.Copy(t.Context(), a.Host+"/from", b.Host+"/bare:1", engine.CopyOptions{})
	require.NoError(t, err)
	require.Equal(t, index.Digest, copied.Digest)
	require.Equal(t, string(index.Digest), b.Header("/v2/bare/manifests/1").Get("Docker-Content-Digest"))
	e := newEngine(t)
	_, err = e.Pull(t.Context(), b.Host+"/bare:1", engine.PullOptions{VerifyKey: public})
	require.ErrorIs(t, err, engine.ErrSignature, "signatures stay behind unless all is copied")
	for _, arch := range []string{"amd64", "arm64"} {
		_, err = e.Pull(t.Context(), b.Host+"/bare:1", engine.PullOptions{Platform: image.Platform{OS: "linux", Architecture: arch}})
		require.NoError(t, err)
	}

	copied, err = engine.Copy(t.Context(), a.Host+"/from", b.Host+"/all", engine.CopyOptions{All: true})
	require.NoError(t, err)
	require.Equal(t, 3, copied.Companions, "two signatures, a report")
	_, err = newEngine(t).Pull(t.Context(), b.Host+"/all", engine.PullOptions{VerifyKey: public})
	require.NoError(t, err)
	require.Equal(t, string(referrer.Digest), b.Header("/v2/all/manifests/"+string(referrer.Digest)).Get("Docker-Content-Digest"))
	requireReferrer(t, b.Host+"/all", manifestOf(t, a.Host+"/from", "amd64"), referrer.Digest)

	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	copied, err = engine.Copy(t.Context(), a.Host+"/from", b.Host+"/arm", engine.CopyOptions{Platform: &arm})
	require.NoError(t, err)
	require.Equal(t, manifestOf(t, a.Host+"/from", "arm64"), copied.Digest)

	t.Run("within a registry nothing is sent but manifests", func(t *testing.T) {
		proxy := testenv.StartProxy(t, a.Host)
		_, err := engine.Copy(t.Context(), proxy.Host+"/from", proxy.Host+"/beside", engine.CopyOptions{})
		require.NoError(t, err)
		for _, request := range proxy.Requests() {
			require.False(t, strings.HasPrefix(request, "PATCH") || strings.HasPrefix(request, "PUT") && strings.Contains(request, "/blobs/"), request)
		}
	})
	_, err = engine.Copy(t.Context(), a.Host+"/from:none", b.Host+"/x", engine.CopyOptions{})
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = engine.Copy(t.Context(), a.Host+"/from", b.Host+"/x@"+string(referrer.Digest), engine.CopyOptions{})
	require.ErrorIs(t, err, engine.ErrOption)
}

func manifestOf(t *testing.T, name, arch string) image.Digest {
	t.Helper()
	remote, err := engine.InspectRemote(t.Context(), name, image.Platform{OS: "linux", Architecture: arch}, engine.RegistryOptions{})
	require.NoError(t, err)
	return remote.Digest
}

func requireReferrer(t *testing.T, name string, subject, want image.Digest) {
	t.Helper()
	client, err := registry.New(registry.Options{})
	require.NoError(t, err)
	ref, err := image.ParseReference(name)
	require.NoError(t, err)
	repo, err := client.Repository(ref, registry.Pull)
	require.NoError(t, err)
	list, err := repo.Referrers(t.Context(), subject)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, want, list[0].Digest)
	require.Equal(t, "application/x.report", list[0].ArtifactType)
	raw, err := json.Marshal(list)
	require.NoError(t, err)
	require.Contains(t, string(raw), string(want))
}

func TestSignaturesTravelThroughTheStore(t *testing.T) {
	a, b := testenv.StartRegistry(t, testenv.RegistryOptions{}), testenv.StartRegistry(t, testenv.RegistryOptions{})
	key := signers(t)["ecdsa"]
	_, referrer := remote{t, a.Host}.publish("from", key)
	e := newEngine(t)
	amd := image.Platform{OS: "linux", Architecture: "amd64"}
	pulled, err := e.Pull(t.Context(), a.Host+"/from", engine.PullOptions{All: true, Platform: amd})
	require.NoError(t, err)
	require.Equal(t, 3, pulled.Companions)
	lock, err := e.Store.Exclusive(t.Context())
	require.NoError(t, err)
	swept, err := e.Store.Sweep(lock, store.Mounts{})
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	require.Empty(t, swept.Blobs, "they are kept")
	pushed, err := e.Push(t.Context(), a.Host+"/from", b.Host+"/to", engine.PushOptions{All: true})
	require.NoError(t, err)
	require.Equal(t, 2, pushed.Companions, "of the manifest; its index stays behind")
	_, err = newEngine(t).Pull(t.Context(), b.Host+"/to", engine.PullOptions{VerifyKey: writeKey(t, key.Public())})
	require.NoError(t, err)
	requireReferrer(t, b.Host+"/to", pushed.Digest, referrer.Digest)

	_, err = e.RemoveImage(t.Context(), a.Host+"/from", engine.RemoveImageOptions{})
	require.NoError(t, err)
	requireNothingHeld(t, e)
	_, err = e.Pull(t.Context(), a.Host+"/from", engine.PullOptions{All: true, Platform: amd})
	require.NoError(t, err)
	_, err = e.Prune(t.Context(), engine.PruneFilter{All: true}, engine.PruneReport{})
	require.NoError(t, err)
	requireNothingHeld(t, e)
}

// requireNothingHeld: with the image went what is about it.
func requireNothingHeld(t *testing.T, e *engine.Engine) {
	t.Helper()
	entries, err := e.Store.Entries()
	require.NoError(t, err)
	require.Empty(t, entries)
	requireEmpty(t, e, "images")
	requireEmpty(t, e, "blobs/sha256")
	requireEmpty(t, e, "layers")
}
