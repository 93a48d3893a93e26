// Command tarn-monitor stays with a container that runs in the background. It is started by tarn, beside
// which it is to lie.
package main

import (
	"context"
	"os"

	"github.com/tarnfs/tarn/monitor"
)

func main() {
	os.Exit(monitor.Main(context.Background(), os.Args[1:]))
}
