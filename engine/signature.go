package engine

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tarnfs/tarn/image"
	"github.com/tarnfs/tarn/registry"
)

// ErrSignature says that an image has no signature of the key that was asked for.
var ErrSignature = errors.New("no valid signature")

// What cosign writes (github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
const (
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	artifactTypeSignature  = "application/vnd.dev.cosign.artifact.sig.v1+json"
	annotationSignature    = "dev.cosignproject.cosign/signature"
	payloadType            = "cosign container image signature"
	maxPayload             = 1 << 20
	maxPublicKey           = 64 << 10
	maxSignaturesOfAnImage = 1000
	cosignSignatureSuffix  = ".sig"
	minRSABits             = 2048
)

// publicKey is a key that images are signed with.
type publicKey struct {
	path string
	key  crypto.PublicKey
}

// readPublicKey reads a PEM file as "cosign generate-key-pair" writes it: ECDSA, RSA or Ed25519.
func readPublicKey(path string) (*publicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPublicKey))
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("public key %s: %w: want a PEM file with a PUBLIC KEY", path, ErrOption)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", path, err)
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("public key %s: %w: RSA keys have at least %d bits", path, ErrOption, minRSABits)
		}
	default:
		return nil, fmt.Errorf("public key %s: %w: %T is none that cosign makes", path, ErrOption, key)
	}
	return &publicKey{path, key}, nil
}

// verifies tells whether the key made this signature of the message.
func (k *publicKey) verifies(message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(key, sum[:], signature) {
			return true
		}
		// With longer keys recent cosigns use longer hashes.
		sum384, sum512 := sha512.Sum384(message), sha512.Sum512(message)
		switch key.Curve.Params().BitSize {
		case 384:
			return ecdsa.VerifyASN1(key, sum384[:], signature)
		case 521:
			return ecdsa.VerifyASN1(key, sum512[:], signature)
		}
		return false
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	default:
		return false
	}
}

// verify looks for a signature by the key of one of the digests: of what a name stands for, or of the
// manifest that was chosen from it.
func (k *publicKey) verify(ctx context.Context, s shelf, ref image.Reference, digests ...image.Digest) error {
	for _, digest := range digests {
		signed, err := k.signed(ctx, s, ref, digest)
		if err != nil {
			return fmt.Errorf("signatures of %s: %w", ref.Familiar(), err)
		}
		if signed {
			return nil
		}
	}
	return fmt.Errorf("%s (%s): %w by the key in %s", ref.Familiar(), digests[0], ErrSignature, k.path)
}

func (k *publicKey) signed(ctx context.Context, s shelf, ref image.Reference, digest image.Digest) (bool, error) {
	candidates := []image.Reference{ref.WithTag(digest.Algorithm() + "-" + digest.Hex() + cosignSignatureSuffix)}
	referrers, err := s.referrers(ctx, digest)
	if err != nil {
		return false, err
	}
	for _, d := range referrers {
		if d.ArtifactType == artifactTypeSignature {
			candidates = append(candidates, ref.WithDigest(d.Digest))
		}
	}
	for _, candidate := range candidates {
		doc, err := s.get(ctx, candidate)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if signed, err := k.signedIn(ctx, s, doc.Raw, digest); signed || err != nil {
			return signed, err
		}
	}
	return false, nil
}

// signedIn looks through a manifest of signatures, each a layer that holds what was signed.
func (k *publicKey) signedIn(ctx context.Context, s shelf, raw []byte, digest image.Digest) (bool, error) {
	doc, err := image.ParseDocument(raw)
	if err != nil {
		return false, err
	}
	for i, l := range doc.Layers {
		signature, err := base64.StdEncoding.DecodeString(l.Annotations[annotationSignature])
		if l.MediaType != mediaTypeSimpleSigning || err != nil || len(signature) == 0 || l.Size > maxPayload || i >= maxSignaturesOfAnImage {
			continue
		}
		payload, err := readPayload(ctx, s, l)
		if err != nil {
			return false, err
		}
		if k.verifies(payload, signature) && isPayloadOf(payload, digest) {
			return true, nil
		}
	}
	return false, nil
}

func readPayload(ctx context.Context, s shelf, d image.Descriptor) ([]byte, error) {
	r, err := s.open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	payload, err := io.ReadAll(io.LimitReader(r, maxPayload))
	if err != nil {
		return nil, fmt.Errorf("signed payload: %w", err)
	}
	return payload, nil
}

// isPayloadOf tells whether what was signed speaks of this digest.
func isPayloadOf(payload []byte, digest image.Digest) bool {
	var signed struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	return json.Unmarshal(payload, &signed) == nil && signed.Critical.Type == payloadType && signed.Critical.Image.Digest == string(digest)
}
