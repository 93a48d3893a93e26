package pasta_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/network/pasta"
)

// fake is a program whose help names these options.
func fake(t *testing.T, options string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pasta")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho '"+options+"'\n"), 0o755))
	return path
}

func TestArgs(t *testing.T) {
	const defaults = "-T none -U none --no-map-gw --dns-forward 169.254.1.1"
	web := pasta.Forward{HostIP: netip.IPv4Unspecified(), HostPort: 8080, ContainerPort: 80, Proto: "tcp"}
	local := pasta.Forward{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, ContainerPort: 5353, Proto: "udp"}
	local6 := pasta.Forward{HostIP: netip.MustParseAddr("::1"), HostPort: 1, ContainerPort: 2, Proto: "tcp"}
	for _, test := range []struct {
		options, want string
		forwards      []pasta.Forward
	}{
		{"", "-t none -u none " + defaults, nil},
		{"", "-t 8080:80 -t ::1/1:2 -u 127.0.0.1/53:5353 " + defaults, []pasta.Forward{web, local, local6}},
		{"-t,auto", "-t auto -u none " + defaults, nil},
		{"--tcp-ports=auto,-u53", "--tcp-ports=auto -u53 " + defaults, nil},
		{"-T,5000", "-T 5000 -t none -u none -U none --no-map-gw --dns-forward 169.254.1.1", nil},
		{"--map-gw,--dns-forward,10.0.0.1", "--dns-forward 10.0.0.1 -t none -u none -T none -U none", nil},
	} {
		got := pasta.Parse(test.options).Args(t.Context(), fake(t, "--config-net"), test.forwards)
		require.Equal(t, test.want, strings.Join(got, " "), "%q", test.options)
	}
}

// The host itself is reached where pasta can do that, or where the user says that the gateway leads there.
func TestHost(t *testing.T) {
	gateway := netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct{ options, help, want string }{
		{"", "", ""},
		{"", "--map-guest-addr ADDR", "169.254.1.2"},
		{"--map-gw", "--map-guest-addr ADDR", "192.0.2.1"},
		{"--map-guest-addr,10.9.9.9", "", "10.9.9.9"},
		{"--map-guest-addr=none", "", ""},
	} {
		o := pasta.Parse(test.options)
		got, ok := o.Host(o.Args(t.Context(), fake(t, test.help), nil), gateway)
		require.Equal(t, test.want != "", ok, "%+v", test)
		if ok {
			require.Equal(t, test.want, got.String(), "%+v", test)
		}
	}
}

func TestNameServer(t *testing.T) {
	a, ok := pasta.Parse("").NameServer()
	require.True(t, ok)
	require.Equal(t, "169.254.1.1", a.String())
	a, ok = pasta.Parse("--dns-forward=10.0.0.3,-4").NameServer()
	require.True(t, ok)
	require.Equal(t, "10.0.0.3", a.String())
	_, ok = pasta.Parse("--dns-forward,none").NameServer()
	require.False(t, ok)
}
