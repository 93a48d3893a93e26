//go:build !amd64 && !arm64 && !riscv64 && !loong64 && !ppc64le && !s390x

package seccomp

var defaultProgram []byte
