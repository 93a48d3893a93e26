package fanout_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/fanout"
)

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func TestEveryConsumerGetsEverything(t *testing.T) {
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 20<<20 + 7} {
		data := content(size)
		var read, written, skipped, copied bytes.Buffer
		err := fanout.Copy(t.Context(), iotest.HalfReader(bytes.NewReader(data)),
			func(s *fanout.Stream) error {
				_, err := io.Copy(struct{ io.Writer }{&read}, struct{ io.Reader }{s})
				return err
			},
			func(s *fanout.Stream) error {
				_, err := io.Copy(&written, s)
				return err
			},
			func(s *fanout.Stream) error {
				for {
					if _, err := io.CopyN(&skipped, s, 1000); err != nil {
						return ignoreEOF(err)
					}
					if _, err := s.Skip(3 << 20); err != nil {
						return ignoreEOF(err)
					}
				}
			},
			func(s *fanout.Stream) error {
				for {
					if _, err := s.CopyN(&copied, 700_001); err != nil {
						return ignoreEOF(err)
					}
				}
			},
			func(*fanout.Stream) error { return nil }, // reads nothing, and holds up nobody
		)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, read.Bytes()), size)
		require.True(t, bytes.Equal(data, written.Bytes()), size)
		require.True(t, bytes.Equal(data, copied.Bytes()), size)
		var want []byte
		for rest := data; len(rest) > 0; rest = rest[min(len(rest), 3<<20):] {
			n := min(len(rest), 1000)
			want = append(want, rest[:n]...)
			rest = rest[n:]
		}
		require.True(t, bytes.Equal(want, skipped.Bytes()), size)
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func hashAll(s *fanout.Stream) error {
	_, err := io.Copy(sha256.New(), s)
	return err
}

func TestFirstErrorEndsAll(t *testing.T) {
	broken := errors.New("broken")
	t.Run("reader", func(t *testing.T) {
		var got int64
		err := fanout.Copy(t.Context(), io.MultiReader(bytes.NewReader(content(5<<20)), iotest.ErrReader(broken)), hashAll,
			func(s *fanout.Stream) (err error) { got, err = io.Copy(io.Discard, s); return err })
		require.ErrorIs(t, err, broken)
		require.LessOrEqual(t, got, int64(5<<20))
	})
	t.Run("cut short by its own account", func(t *testing.T) {
		err := fanout.Copy(t.Context(), io.MultiReader(bytes.NewReader(content(100)), iotest.ErrReader(io.ErrUnexpectedEOF)), hashAll)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
	t.Run("consumer", func(t *testing.T) {
		err := fanout.Copy(t.Context(), zeros{}, hashAll, func(s *fanout.Stream) error {
			_, err := s.Skip(30 << 20)
			return errors.Join(err, broken)
		})
		require.ErrorIs(t, err, broken)
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := fanout.Copy(ctx, zeros{}, hashAll, func(s *fanout.Stream) error {
			_, err := s.Skip(30 << 20)
			cancel(broken)
			return err
		})
		require.ErrorIs(t, err, broken)
	})
}

// zeros never ends: only an error stops reading it.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestWhatCameBeforeAnErrorIsGiven: also to a consumer that is slower than the error.
func TestWhatCameBeforeAnErrorIsGiven(t *testing.T) {
	failure := errors.New("cut")
	data := content(3<<20 + 5)
	for range 50 {
		var got bytes.Buffer
		failed := make(chan struct{})
		err := fanout.Copy(t.Context(), io.MultiReader(bytes.NewReader(data), iotest.ErrReader(failure)),
			func(s *fanout.Stream) error {
				defer close(failed)
				_, err := io.Copy(io.Discard, s)
				return err
			},
			func(s *fanout.Stream) error {
				<-failed
				_, err := io.Copy(&got, s)
				return err
			},
		)
		require.ErrorIs(t, err, failure)
		require.True(t, bytes.Equal(data, got.Bytes()), "%d of %d bytes", got.Len(), len(data))
	}
}
