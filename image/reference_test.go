package image_test

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestReference(t *testing.T) {
	for _, tc := range []struct{ in, canonical, familiar string }{
		{"debian", "docker.io/library/debian:latest", "debian:latest"},
		{"debian:12", "docker.io/library/debian:12", "debian:12"},
		{"docker.io/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"me/tool", "docker.io/me/tool:latest", "me/tool:latest"},
		{"localhost/tool", "localhost/tool:latest", "localhost/tool:latest"},
		{"localhost:5000/tool:v1", "localhost:5000/tool:v1", "localhost:5000/tool:v1"},
		{"[::1]:5000/tool", "[::1]:5000/tool:latest", "[::1]:5000/tool:latest"},
		{"ghcr.io/a/b/c@" + someDigest, "ghcr.io/a/b/c@" + someDigest, "ghcr.io/a/b/c@" + someDigest},
		{"debian:12@" + someDigest, "docker.io/library/debian:12@" + someDigest, "debian:12@" + someDigest},
	} {
		ref, err := image.ParseReference(tc.in)
		require.NoError(t, err, tc.in)
		require.Equal(t, tc.canonical, ref.WithDefaultTag().String())
		require.Equal(t, tc.familiar, ref.WithDefaultTag().Familiar())
		again, err := image.ParseReference(ref.String())
		require.NoError(t, err)
		require.Equal(t, ref, again)
	}
	for _, in := range []string{
		"", " ", "Debian", "a//b", "/a", "a/", "a:", "a:b:c", "a@sha256:00", "-a", "a_-b", "a___b", "a..b", "http://x/y", "a b",
		"a:-t", "host:port/x", "a@", "a:t/x/", "-.com/x", strings.Repeat("a", 300), "a:" + strings.Repeat("t", 129),
		strings.Repeat("0", 64),
	} {
		_, err := image.ParseReference(in)
		require.ErrorIs(t, err, image.ErrReference, in)
	}
}

// FuzzReference holds the parser against its oracle, Docker's own.
func FuzzReference(f *testing.F) {
	for _, seed := range []string{
		"debian", "debian:12", "a.b/c:d@" + someDigest, "Foo/bar", "localhost/x", "[::1]:5/x", "a--b__c.d/e", "x@sha384:00", "docker.io/library/",
		"a_b.c/d", "h-.com/x", "a:5/b", "library/x", "index.docker.io/x", "UPPER:5/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, gotErr := image.ParseReference(s)
		want, wantErr := reference.ParseNormalizedNamed(s)
		if wantErr == nil && reference.Domain(want) == "" {
			// "a_b.c/d": the library takes what is not a host for a path, and finds no registry in it.
			require.Error(t, gotErr)
			return
		}
		require.Equal(t, wantErr == nil, gotErr == nil, "%q: %v, want %v", s, gotErr, wantErr)
		if wantErr != nil {
			return
		}
		require.Equal(t, want.String(), got.String())
		require.Equal(t, reference.FamiliarString(want), got.Familiar())
		require.Equal(t, reference.Domain(want), got.Domain())
		require.Equal(t, reference.TagNameOnly(want).String(), got.WithDefaultTag().String())
	})
}
