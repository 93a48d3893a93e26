package ociruntime

import (
	"context"
	"os"

	"github.com/tarnfs/tarn/container"
)

func features(_ context.Context, _ *runtime, args []string) (int, error) {
	if _, err := parse(newFlags("features"), args, 0, 0); err != nil {
		return 1, err
	}
	return 0, printJSON(os.Stdout, container.Features())
}
