package layer

import "github.com/tarnfs/tarn/layer/tarfile"

// Limits bound what Scan accepts, so that a hostile tar costs a bounded amount of
// memory, time and index. A field that is zero has its default; none can be
// switched off.
type Limits struct {
	tarfile.Limits       // Entries counts implied parent directories, too
	Component      int   // bytes of one name in a path; default 255, as the kernel's
	TotalSize      int64 // bytes of all files, holes included; default 64 TiB
}

// WithDefaults returns l with the default of each field that is zero.
func (l Limits) WithDefaults() Limits {
	l.Limits = l.Limits.WithDefaults()
	if l.Component <= 0 {
		l.Component = 255
	}
	if l.TotalSize <= 0 {
		l.TotalSize = 64 << 40
	}
	return l
}
