package server_test

import (
	"testing"

	"github.com/tarnfs/tarn/registry/server"
	"github.com/tarnfs/tarn/registry/server/servertest"
)

func TestMemory(t *testing.T) {
	servertest.Run(t, func(*testing.T) server.Content { return new(server.Memory) })
}
