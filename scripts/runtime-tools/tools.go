//go:build tools

// Package runtimetools pins what the validation of OCI runtimes is built from: its module is older
// than go.mod files. scripts/runtime-tools.sh builds it.
package runtimetools

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/kill"
)
