package engine

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"github.com/tarnfs/tarn/image"
)

// Compressions that --compression takes.
const (
	compressGzip = "gzip"
	compressZstd = "zstd"
	compressNone = "none"
)

const (
	// defaultGzipLevel takes three quarters of the time of level 6, which others use, for 3 % more bytes.
	defaultGzipLevel = 4
	defaultZstdLevel = 3
	// gzipBlock is what is compressed at a time by each of the threads; it decides about the bytes.
	gzipBlock = 1 << 20
)

// compressor makes the compressed form of a layer. One compressor makes the same bytes of the same
// tar, on however many processors.
type compressor struct {
	format string
	level  int
}

// newCompressor reads --compression and --compression-level; "" and 0 are the defaults.
func newCompressor(format string, level int) (compressor, error) {
	c := compressor{format: cmp.Or(format, compressGzip), level: level}
	most := 0
	switch c.format {
	case compressGzip:
		c.level, most = cmp.Or(level, defaultGzipLevel), 9
	case compressZstd:
		c.level, most = cmp.Or(level, defaultZstdLevel), 22
	case compressNone:
	default:
		return c, fmt.Errorf("%w: compression %q: want gzip, zstd or none", ErrOption, format)
	}
	if c.level < 0 || c.level > most {
		return c, fmt.Errorf("%w: compression level %d: %s has 1 to %d", ErrOption, level, c.format, most)
	}
	return c, nil
}

// writer compresses what is written to it, on all processors.
func (c compressor) writer(w io.Writer) (io.WriteCloser, error) {
	switch c.format {
	case compressGzip:
		zw, err := pgzip.NewWriterLevel(w, c.level)
		if err == nil {
			err = zw.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0))
		}
		return zw, err
	case compressZstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level)))
	default:
		return nil, fmt.Errorf("%w: compression %q", ErrOption, c.format)
	}
}

// mediaType is that of a layer compressed so.
func (c compressor) mediaType() string {
	if c.format == compressZstd {
		return image.MediaTypeLayerZstd
	}
	return image.MediaTypeLayerGzip
}

// String names program, version and settings: what decides about the bytes.
func (c compressor) String() string {
	library := "github.com/klauspost/compress"
	name := fmt.Sprintf("%s level %d, %s", c.format, c.level, moduleVersion(library))
	if c.format == compressGzip {
		name += fmt.Sprintf(", pgzip %s, blocks of %d", moduleVersion("github.com/klauspost/pgzip"), gzipBlock)
	}
	return name
}

// parseCompressor reads what String made, whatever the version.
func parseCompressor(s string) (compressor, error) {
	var c compressor
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, ",", " "), "%s level %d", &c.format, &c.level); err != nil {
		return c, fmt.Errorf("compressor %q: %w", s, err)
	}
	return newCompressor(c.format, c.level)
}

// moduleVersion gives the version of a library in this program.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}
