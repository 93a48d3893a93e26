package seccomp

import _ "embed"

//go:embed default_ppc64le.bpf
var defaultProgram []byte
