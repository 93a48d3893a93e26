// Command tarn-runtime is "tarn runtime" alone: an OCI runtime for other engines, in a program that
// is small enough to be started twice for every container.
package main

import (
	"cmp"
	"context"
	"os"

	"github.com/tarnfs/tarn/ociruntime"
)

// version is set by the build: -ldflags '-X main.version=v1.2.3'.
var version string

func main() {
	os.Exit(ociruntime.Main(context.Background(), cmp.Or(version, "dev"), os.Args[1:]))
}
