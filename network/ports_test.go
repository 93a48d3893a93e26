package network_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/network"
)

func TestParsePorts(t *testing.T) {
	local, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for text, want := range map[string][]network.PortMapping{
		"80":                     {{ContainerPort: 80, Proto: "tcp"}},
		"8080:80":                {{HostPort: 8080, HostEnd: 8080, ContainerPort: 80, Proto: "tcp"}},
		"53:53/UDP":              {{HostPort: 53, HostEnd: 53, ContainerPort: 53, Proto: "udp"}},
		":80":                    {{ContainerPort: 80, Proto: "tcp"}},
		"127.0.0.1:8080:80/sctp": {{HostIP: local, HostPort: 8080, HostEnd: 8080, ContainerPort: 80, Proto: "sctp"}},
		"127.0.0.1::80":          {{HostIP: local, ContainerPort: 80, Proto: "tcp"}},
		"[::1]:8080:80":          {{HostIP: six, HostPort: 8080, HostEnd: 8080, ContainerPort: 80, Proto: "tcp"}},
		"[::1]::80":              {{HostIP: six, ContainerPort: 80, Proto: "tcp"}},
		"8000-8010:80":           {{HostPort: 8000, HostEnd: 8010, ContainerPort: 80, Proto: "tcp"}},
		"8000-8001:80-81": {
			{HostPort: 8000, HostEnd: 8000, ContainerPort: 80, Proto: "tcp"}, {HostPort: 8001, HostEnd: 8001, ContainerPort: 81, Proto: "tcp"},
		},
		"80-81/udp":   {{ContainerPort: 80, Proto: "udp"}, {ContainerPort: 81, Proto: "udp"}},
		"65535:65535": {{HostPort: 65535, HostEnd: 65535, ContainerPort: 65535, Proto: "tcp"}},
	} {
		got, err := network.ParsePorts(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{
		"", "x", "0", "65536", "-1", "+80", "80/", "80/icmp", "80:", "0:80", "1.2.3:80:80", "::1:8080:80", "8000-8001:80-82", "81-80", "80-", "a:80:80",
	} {
		_, err := network.ParsePorts(bad)
		require.ErrorIs(t, err, network.ErrInvalid, bad)
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, text := range []string{"80", "8080:80/udp", "[::1]:1-2:3-4", "1.2.3.4::5", ":::", "1-9:1-9"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := network.ParsePorts(text)
		if err != nil {
			require.ErrorIs(t, err, network.ErrInvalid)
			return
		}
		for _, m := range list {
			if m.ContainerPort == 0 || m.HostPort > m.HostEnd || m.Proto != "tcp" && m.Proto != "udp" && m.Proto != "sctp" {
				t.Fatalf("%q: %+v", text, m)
			}
		}
	})
}
