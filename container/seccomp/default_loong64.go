package seccomp

import _ "embed"

//go:embed default_loong64.bpf
var defaultProgram []byte
