// Package ociruntime is an OCI runtime: runc's command line, and what it keeps on disk, over package
// container. Docker, containerd and podman can use it in place of runc.
//
// A container is a directory below the runtime's root (docs/format.md, "A runtime's containers").
// There is no process of the runtime's own while a container runs: who created it inherits its first
// process. "create" leaves that waiting at the last step before its exec, "start" lets it go on.
//
// Sources: the OCI runtime specification 1.2 (runtime.md), and for all that it leaves open runc 1.1.
package ociruntime
