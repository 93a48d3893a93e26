package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// The names below follow fs/erofs/erofs_fs.h of Linux.
const (
	superOffset   = 1024 // EROFS_SUPER_OFFSET
	superSize     = 128
	superMagic    = 0xE0F5E1E2 // EROFS_SUPER_MAGIC_V1
	deviceSlot    = 128        // EROFS_DEVT_SLOT_SIZE
	deviceTagSize = 64
	deviceTable   = superOffset + superSize
	inodeSize     = 64 // struct erofs_inode_extended
	inodeSlot     = 32 // the unit of a nid
	inodeSlotBits = 5
	chunkIndex    = 8 // struct erofs_inode_chunk_index
	direntSize    = 12
	maxChunkBits  = 31 // EROFS_CHUNK_FORMAT_BLKBITS_MASK
	maxRootNID    = 1<<16 - 1
	maxBlocks     = 1<<32 - 1 // block addresses are 32 bits, and the last one is nullBlock
	nullBlock     = 1<<32 - 1 // EROFS_NULL_ADDR

	featureMtime       = 0x2 // EROFS_FEATURE_COMPAT_MTIME
	featureChunked     = 0x4 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE
	featureDeviceTable = 0x8 // EROFS_FEATURE_INCOMPAT_DEVICE_TABLE

	formatExtended = 1 // i_format: EROFS_INODE_LAYOUT_EXTENDED
	layoutPlain    = 0 // EROFS_INODE_FLAT_PLAIN
	layoutInline   = 2 // EROFS_INODE_FLAT_INLINE
	layoutChunked  = 4 // EROFS_INODE_CHUNK_BASED
	chunkIndexes   = 0x20
)

// superBlock holds the fields of struct erofs_super_block that are not fixed.
type superBlock struct {
	blockBits byte
	rootNID   uint16
	inodes    uint64
	blocks    uint32
	uuid      [16]byte
	devices   uint16
}

func (sb *superBlock) incompat() uint32 {
	if sb.devices > 0 {
		return featureChunked | featureDeviceTable
	}
	return featureChunked
}

// encode writes the superblock to b, which is zero. There is no checksum: it
// would be EROFS_FEATURE_COMPAT_SB_CHKSUM, which erofs-utils does not handle
// with blocks smaller than the superblock's offset (its mkfs.erofs leaves it
// out, its fsck.erofs crashes). The UUID takes its place, see imageUUID.
func (sb *superBlock) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], featureMtime)
	b[12] = sb.blockBits
	le.PutUint16(b[14:], sb.rootNID)
	le.PutUint64(b[16:], sb.inodes)
	le.PutUint32(b[36:], sb.blocks)
	copy(b[48:64], sb.uuid[:])
	le.PutUint32(b[80:], sb.incompat())
	le.PutUint16(b[86:], sb.devices)
	if sb.devices > 0 {
		le.PutUint16(b[88:], deviceTable/deviceSlot)
	}
}

// decodeSuperBlock is strict: what encode does not write is refused.
func decodeSuperBlock(b []byte) (superBlock, error) {
	le := binary.LittleEndian
	if le.Uint32(b) != superMagic {
		return superBlock{}, fmt.Errorf("%w: no EROFS superblock", ErrCorrupt)
	}
	sb := superBlock{
		blockBits: b[12],
		rootNID:   le.Uint16(b[14:]),
		inodes:    le.Uint64(b[16:]),
		blocks:    le.Uint32(b[36:]),
		uuid:      [16]byte(b[48:64]),
		devices:   le.Uint16(b[86:]),
	}
	if sb.blockBits < 9 || sb.blockBits > 12 || sb.devices > MaxDevices {
		return sb, fmt.Errorf("%w: block size 2^%d, %d devices", ErrUnsupported, sb.blockBits, sb.devices)
	}
	var want [superSize]byte
	sb.encode(want[:])
	if want != [superSize]byte(b) {
		return sb, fmt.Errorf("%w: superblock has other features (compat %#x, incompat %#x) or values",
			ErrUnsupported, le.Uint32(b[8:]), le.Uint32(b[80:]))
	}
	return sb, nil
}

// inodeStart returns where the first inode, the root, lies: on the first block
// boundary after the device table.
func inodeStart(devices int, blockBits byte) int64 {
	return roundUp(deviceTable+deviceSlot*int64(devices), int64(1)<<blockBits)
}

// newDigest begins the digest of an image's metadata, all bytes from the
// superblock on, with the superblock; the UUID in it counts as zero.
func (sb superBlock) newDigest() hash.Hash {
	sb.uuid = [16]byte{}
	var b [superSize]byte
	sb.encode(b[:])
	digest := sha256.New()
	digest.Write(b[:])
	return digest
}

// imageUUID makes a version 8 UUID (RFC 9562) of the digest of the metadata. It
// tells damage, and overlayfs needs layers with distinct UUIDs to keep inode
// numbers.
func imageUUID(digest hash.Hash) [16]byte {
	uuid := [16]byte(digest.Sum(nil))
	uuid[6] = uuid[6]&0x0f | 0x80
	uuid[8] = uuid[8]&0x3f | 0x80
	return uuid
}

// encode writes struct erofs_deviceslot; mapped is the block at which the
// device would lie if it followed the image.
func (d *DeviceInfo) encode(b []byte, mapped int64) {
	copy(b[:deviceTagSize], d.Tag)
	binary.LittleEndian.PutUint32(b[64:], d.Blocks)
	if mapped+int64(d.Blocks) <= maxBlocks {
		binary.LittleEndian.PutUint32(b[68:], uint32(mapped))
	}
}

func decodeDevice(b []byte) DeviceInfo {
	return DeviceInfo{
		Tag:    string(bytes.TrimRight(b[:deviceTagSize], "\x00")),
		Blocks: binary.LittleEndian.Uint32(b[64:]),
	}
}

// diskInode is struct erofs_inode_extended.
type diskInode struct {
	layout     byte
	xattrCount uint16
	mode       uint16
	size       uint64
	union      uint32 // raw_blkaddr, rdev or chunk format
	ino        uint32
	uid, gid   uint32
	sec        int64
	nsec       uint32
	nlink      uint32
}

func (d *diskInode) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], formatExtended|uint16(d.layout)<<1)
	le.PutUint16(b[2:], d.xattrCount)
	le.PutUint16(b[4:], d.mode)
	le.PutUint64(b[8:], d.size)
	le.PutUint32(b[16:], d.union)
	le.PutUint32(b[20:], d.ino)
	le.PutUint32(b[24:], d.uid)
	le.PutUint32(b[28:], d.gid)
	le.PutUint64(b[32:], uint64(d.sec))
	le.PutUint32(b[40:], d.nsec)
	le.PutUint32(b[44:], d.nlink)
}

func decodeInode(b []byte) (diskInode, error) {
	le := binary.LittleEndian
	format := le.Uint16(b[0:])
	d := diskInode{
		layout:     byte(format >> 1),
		xattrCount: le.Uint16(b[2:]),
		mode:       le.Uint16(b[4:]),
		size:       le.Uint64(b[8:]),
		union:      le.Uint32(b[16:]),
		ino:        le.Uint32(b[20:]),
		uid:        le.Uint32(b[24:]),
		gid:        le.Uint32(b[28:]),
		sec:        int64(le.Uint64(b[32:])),
		nsec:       le.Uint32(b[40:]),
		nlink:      le.Uint32(b[44:]),
	}
	var want [inodeSize]byte
	d.encode(want[:])
	if want != [inodeSize]byte(b) {
		return d, fmt.Errorf("%w: inode format %#x or reserved fields", ErrCorrupt, format)
	}
	return d, nil
}

// xattrAreaSize returns the bytes between inode and data that i_xattr_icount
// stands for.
func xattrAreaSize(count uint16) int64 {
	if count == 0 {
		return 0
	}
	return xattrHeader + 4*(int64(count)-1)
}

// Directory entries carry the type as FT_* of include/linux/fs_types.h.
func fileType(mode uint32) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFifo:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// modeType is the inverse of fileType; 0 for an unknown type.
func modeType(fileType byte) uint32 {
	types := [...]uint32{0, ModeRegular, ModeDir, ModeChar, ModeBlock, ModeFifo, ModeSocket, ModeSymlink}
	if int(fileType) >= len(types) {
		return 0
	}
	return types[fileType]
}

// roundUp rounds n up to a multiple of unit, a power of two.
func roundUp(n, unit int64) int64 { return (n + unit - 1) &^ (unit - 1) }
