package engine

import (
	"cmp"
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/klauspost/compress/gzip"
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
	// defaultGzipLevel takes half the time of level 6, which others use, for 9 % more bytes.
	defaultGzipLevel = 2
	defaultZstdLevel = 3
	// gzipBlock is what is compressed at a time by each of the threads; it decides about the bytes.
	gzipBlock = 1 << 20
)

// Programs whose compressed forms can be told and made again.
const (
	programOurs      = "tarn"      // what a push uses: pgzip, or klauspost's zstd
	programGo        = "go"        // compress/gzip, as in Docker, BuildKit and ko
	programKlauspost = "klauspost" // its gzip, as in containerd
)

// compressor makes the compressed form of a layer. One compressor makes the same bytes of the same
// tar, on however many processors.
type compressor struct {
	format  string
	program string
	level   int
}

// newCompressor reads --compression and --compression-level; "" and 0 are the defaults.
func newCompressor(format string, level int) (compressor, error) {
	c := compressor{format: cmp.Or(format, compressGzip), program: programOurs, level: level}
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

// writer compresses what is written to it, on all processors if it is of our own.
func (c compressor) writer(w io.Writer) (io.WriteCloser, error) {
	switch {
	case c.format == compressZstd && c.program == programOurs:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level)))
	case c.format == compressGzip && c.program == programGo:
		return stdgzip.NewWriterLevel(w, c.level)
	case c.format == compressGzip && c.program == programKlauspost:
		return gzip.NewWriterLevel(w, c.level)
	case c.format == compressGzip && c.program == programOurs:
		zw, err := pgzip.NewWriterLevel(w, c.level)
		if err == nil {
			err = zw.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0))
		}
		return zw, err
	default:
		return nil, fmt.Errorf("%w: compression %q by %q", ErrOption, c.format, c.program)
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
	name := fmt.Sprintf("%s by %s level %d, ", c.format, c.program, c.level)
	library := moduleVersion("github.com/klauspost/compress")
	switch {
	case c.program == programGo:
		return name + runtime.Version()
	case c.program == programOurs && c.format == compressGzip:
		return name + fmt.Sprintf("compress %s, pgzip %s, blocks of %d", library, moduleVersion("github.com/klauspost/pgzip"), gzipBlock)
	default:
		return name + "compress " + library
	}
}

// parseCompressor reads what String made, whatever the version.
func parseCompressor(s string) (compressor, error) {
	var c compressor
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, ",", " "), "%s by %s level %d", &c.format, &c.program, &c.level); err != nil {
		return c, fmt.Errorf("compressor %q: %w", s, err)
	}
	return c, nil
}

// knownCompressors lists what compressed forms of a format are compared with, the likeliest first.
func knownCompressors(format string) []compressor {
	var known []compressor
	switch format {
	case compressGzip:
		for _, program := range []string{programGo, programOurs, programKlauspost} {
			for _, level := range []int{6, 5, 9, 1, 4, 3, 2, 7, 8} {
				known = append(known, compressor{format, program, level})
			}
		}
	case compressZstd:
		// Four settings are all that the encoder has; these levels stand for them.
		for _, level := range []int{defaultZstdLevel, 1, 7, 11} {
			known = append(known, compressor{format, programOurs, level})
		}
	}
	return known
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
