package sys

import "runtime"

// GrowStack gives the calling goroutine the stack that deep calls need, at once. A stack begins with 2 KB and is
// doubled when it is full, for which the runtime looks up each call on it in the program's tables: a
// page fault for each table, and what they map is to be unmapped when the program ends.
//
//go:noinline
func GrowStack() {
	const deep = 6 << 10
	var room [deep]byte
	runtime.KeepAlive(&room)
}
