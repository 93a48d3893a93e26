package sys_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/sys"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "TERM": syscall.SIGTERM, "term": syscall.SIGTERM, "15": syscall.SIGTERM, "9": syscall.SIGKILL,
		"SIGRTMIN": 34, "RTMIN+3": 37, "sigrtmin+3": 37, "SIGRTMAX": 64, "RTMAX-1": 63, "64": 64, "SIGWINCH": syscall.SIGWINCH,
	} {
		got, ok := sys.ParseSignal(text)
		require.True(t, ok, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "0", "-1", "65", "SIG", "SIGFUN", "RTMIN-1", "RTMIN+31", "RTMIN+", "RTMAX+1", "RTMAX-31", "RTMIN3", "SIGSIGTERM"} {
		got, ok := sys.ParseSignal(text)
		require.False(t, ok, "%q is %d", text, got)
	}
}
