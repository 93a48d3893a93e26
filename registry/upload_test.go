package registry

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

// session is a registry that takes one upload, keeps every byte that it got, and loses answers.
type session struct {
	mu       sync.Mutex
	got      bytes.Buffer
	taken    int64 // bytes over the wire
	requests []string
	harm     func(request int, w http.ResponseWriter, r *http.Request) bool // true: no answer
	done     image.Digest
}

func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method)
	body, err := io.ReadAll(r.Body)
	s.taken += int64(len(body))
	status := http.StatusAccepted
	switch r.Method {
	case http.MethodGet:
		status = http.StatusNoContent
	case http.MethodPatch, http.MethodPut:
		if at := r.Header.Get("Content-Range"); at != "" && !strings.HasPrefix(at, fmt.Sprintf("%d-", s.got.Len())) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		s.got.Write(body)
		if r.Method == http.MethodPut {
			s.done, status = image.Digest(r.URL.Query().Get("digest")), http.StatusCreated
		}
	}
	if s.harm != nil && s.harm(len(s.requests), w, r) || err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Location", "/v2/x/blobs/uploads/1?state="+fmt.Sprint(len(s.requests)))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(s.got.Len()-1, 0)))
	w.WriteHeader(status)
}

func (s *session) repository(t *testing.T) *Repository {
	t.Helper()
	return repositoryAt(t, s)
}

// repositoryAt gives a repository of a registry that is this handler.
func repositoryAt(t *testing.T, handler http.Handler) *Repository {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "/dev/null")
	client, err := New(Options{})
	require.NoError(t, err)
	client.backoff = time.Millisecond
	ref, err := image.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/x")
	require.NoError(t, err)
	repo, err := client.Repository(ref, Push)
	require.NoError(t, err)
	return repo
}

func contentOf(data []byte, size int64) Content {
	return Content{
		Size: size,
		Open: func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[offset:])), nil },
		Digest: func() (image.Descriptor, error) {
			return image.Descriptor{Digest: image.DigestBytes(data), Size: int64(len(data))}, nil
		},
	}
}

func TestUpload(t *testing.T) {
	big := make([]byte, 20<<20)
	_, _ = rand.Read(big)
	lose := func(requests ...int) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			return slices.Contains(requests, n)
		}
	}
	for name, tc := range map[string]struct {
		content Content
		data    []byte
		harm    func(int, http.ResponseWriter, *http.Request) bool
		want    string // requests
	}{
		"small":                            {contentOf(big[:1000], 1000), big[:1000], nil, "POST PUT"},
		"empty":                            {contentOf(nil, 0), nil, nil, "POST PUT"},
		"big":                              {contentOf(big, int64(len(big))), big, nil, "POST PATCH PUT"},
		"of unknown size":                  {contentOf(big, -1), big, nil, "POST PATCH PUT"},
		"the answer is lost":               {contentOf(big, int64(len(big))), big, lose(2), "POST PATCH GET PUT"},
		"the answer is lost, size as well": {contentOf(big, -1), big, lose(2), "POST PATCH GET PATCH PUT"},
		"no session at first":              {contentOf(big, int64(len(big))), big, lose(1, 2), "POST POST POST PATCH PUT"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &session{harm: tc.harm}
			d, err := s.repository(t).Upload(t.Context(), tc.content)
			require.NoError(t, err)
			require.Equal(t, image.DigestBytes(tc.data), d.Digest)
			require.Equal(t, d.Digest, s.done)
			require.True(t, bytes.Equal(tc.data, s.got.Bytes()))
			require.EqualValues(t, len(tc.data), s.taken, "no byte is sent twice")
			require.Equal(t, tc.want, strings.Join(s.requests, " "))
		})
	}
}

// A registry that stops reading is left for another try.
func TestUploadThatStallsIsSentAgain(t *testing.T) {
	big := make([]byte, 20<<20)
	_, _ = rand.Read(big)
	s := &session{}
	var patches atomic.Int64
	uploaded := make(chan struct{})
	repo := repositoryAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch && patches.Add(1) == 1 {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			<-uploaded
			return
		}
		s.ServeHTTP(w, r)
	}))
	repo.client.stall = 100 * time.Millisecond
	d, err := repo.Upload(t.Context(), contentOf(big, int64(len(big))))
	close(uploaded)
	require.NoError(t, err)
	require.Equal(t, d.Digest, s.done)
	require.True(t, bytes.Equal(big, s.got.Bytes()))
}

// Pieces become smaller until they come through.
func TestUploadThroughALineThatBreaks(t *testing.T) {
	big := make([]byte, 5<<20)
	_, _ = rand.Read(big)
	for _, size := range []int64{1 << 20, int64(len(big)), -1} {
		data := big[:max(size, 1<<20)]
		s := &session{}
		repo := repositoryAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Body != http.NoBody {
				body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
				if err != nil || len(body) == 64<<10 {
					panic(http.ErrAbortHandler)
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			s.ServeHTTP(w, r)
		}))
		_, err := repo.Upload(t.Context(), contentOf(data, size))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, s.got.Bytes()))
	}
}

func TestReceived(t *testing.T) {
	for header, want := range map[string]int64{"0-0": 0, "": 0, "0-41": 42, "bytes=0-41": 42, "0--5": 0, "x": 0, "0-x": 0} {
		require.Equal(t, want, received(header), header)
	}
}
