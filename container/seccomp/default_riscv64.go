package seccomp

import _ "embed"

//go:embed default_riscv64.bpf
var defaultProgram []byte
