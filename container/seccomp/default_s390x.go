package seccomp

import _ "embed"

//go:embed default_s390x.bpf
var defaultProgram []byte
