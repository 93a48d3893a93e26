package tarfile

// Limits bound what a Reader accepts, so that a hostile archive costs a bounded
// amount of memory. A field that is zero has its default; none can be
// switched off.
type Limits struct {
	Entries    int   // entries in the archive; default 2 Mi
	Name       int   // bytes of a name; default 4096
	Linkname   int   // bytes of a link's target; default 4095, as the kernel's
	Extension  int   // bytes of one PAX header or GNU long name; default 4 MiB
	Segments   int   // data segments of one sparse file; default 1 Mi
	Xattrs     int   // extended attributes of one entry; default 1024
	XattrBytes int   // bytes of their names and values in one entry; default 192 KiB
	Metadata   int64 // bytes of names, attributes and sparse maps in the archive; default 256 MiB
	FileSize   int64 // bytes of one file, holes included; default 16 TiB
}

// WithDefaults returns l with the default of each field that is zero.
func (l Limits) WithDefaults() Limits {
	orDefault(&l.Entries, 2<<20)
	orDefault(&l.Name, 4096)
	orDefault(&l.Linkname, 4095)
	orDefault(&l.Extension, 4<<20)
	orDefault(&l.Segments, 1<<20)
	orDefault(&l.Xattrs, 1024)
	orDefault(&l.XattrBytes, 192<<10)
	orDefault(&l.Metadata, 256<<20)
	orDefault(&l.FileSize, 16<<40)
	return l
}

func orDefault[N int | int64](field *N, value N) {
	if *field <= 0 {
		*field = value
	}
}
