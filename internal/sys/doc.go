// Package sys is the only place that talks to the kernel beyond what package os offers. It adds
// names, types and errors to system calls, and no policy.
package sys
