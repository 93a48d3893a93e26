package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/tarnfs/tarn/internal/sys"
	"github.com/tarnfs/tarn/network/link"
)

// serveWeb answers HTTP in a network with the address of who asks.
func (u *ordinary) serveWeb(ns *os.File, address string) {
	u.t.Helper()
	var l net.Listener
	require.NoError(u.t, link.InNamespace(ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(u.t.Context(), "tcp", address)
		return err
	}))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "hello "+host)
	})}
	go func() { _ = server.Serve(l) }()
	u.t.Cleanup(func() { _ = server.Close() })
}

// serveNames answers every question with worldAddress.
func (u *ordinary) serveNames(ns *os.File, address string) {
	u.t.Helper()
	var c *net.UDPConn
	require.NoError(u.t, link.InNamespace(ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}))
	u.t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				a := netip.MustParseAddr(worldAddress).As4()
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a},
				}}
			}
			answer, _ := m.Pack()
			_, _ = c.WriteToUDPAddrPort(answer, from)
		}
	}()
}

// fetch asks a web server for what it has, from one of the networks, until there is one.
func (u *ordinary) fetch(ns *os.File, url string) string {
	u.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Dial: func(kind, address string) (c net.Conn, err error) { //nolint:staticcheck // it is to dial on another thread
		err = link.InNamespace(ns, func() (err error) {
			c, err = net.Dial(kind, address) //nolint:noctx // so it is
			return err
		})
		return c, err
	}}}
	var body []byte
	require.Eventually(u.t, func() bool {
		r, err := client.Get(url) //nolint:noctx // so it is
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err == nil && r.StatusCode == http.StatusOK
	}, time.Minute, 20*time.Millisecond, url)
	return string(body)
}

// serveEcho sends datagrams back to where they come from.
func (u *ordinary) serveEcho(ns *os.File, address string) {
	u.t.Helper()
	var c net.PacketConn
	require.NoError(u.t, link.InNamespace(ns, func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(u.t.Context(), "udp", address)
		return err
	}))
	u.t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

// echo sends a datagram from one of the networks, and gives what comes back.
func (u *ordinary) echo(ns *os.File, address string) string {
	u.t.Helper()
	buf, n := make([]byte, 16), 0
	require.Eventually(u.t, func() bool {
		var c net.Conn
		require.NoError(u.t, link.InNamespace(ns, func() (err error) {
			c, err = net.Dial("udp", address) //nolint:noctx // it need not be
			return err
		}))
		defer c.Close()
		_, err := c.Write([]byte("echo"))
		require.NoError(u.t, err)
		require.NoError(u.t, c.SetReadDeadline(time.Now().Add(time.Second)))
		n, err = c.Read(buf)
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	return string(buf[:n])
}

// pastas lists the user's.
func (u *ordinary) pastas() []int {
	u.t.Helper()
	var list []int
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(u.t, err)
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(comm), "pasta") && !strings.HasPrefix(string(comm), "passt") {
			continue
		}
		if net, err := os.Stat(filepath.Join(filepath.Dir(name), "ns/net")); err == nil {
			ours, err := u.host.Stat()
			require.NoError(u.t, err)
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && os.SameFile(net, ours) {
				list = append(list, pid)
			}
		}
	}
	return list
}

func (u *ordinary) noPastas() {
	u.t.Helper()
	require.Eventually(u.t, func() bool { return len(u.pastas()) == 0 }, time.Minute, 10*time.Millisecond, "a pasta is left")
}

// A user without root has the host's network by default, by pasta(1), and publishes ports.
func TestRootlessNetwork(t *testing.T) {
	u := newOrdinary(t)
	u.serveWeb(u.world, ":8000")
	u.serveNames(u.host, "127.0.0.1:53")
	u.run("tarn import --name box $BUSYBOX")

	// Out, by both families, and by name: the name server is one that only the host reaches.
	require.Equal(t, "hello "+hostAddress+"\n", u.run("tarn run --rm box wget -qO- http://"+worldAddress+":8000"))
	require.Equal(t, "hello "+hostAddress6+"\n", u.run("tarn run --rm box wget -qO- 'http://["+worldAddress6+"]:8000'"))
	require.Equal(t, "nameserver 169.254.1.1\nsearch example.test\n", u.run("tarn run --rm box cat /etc/resolv.conf"))
	require.Equal(t, "hello "+hostAddress+"\n", u.run("tarn run --rm box wget -qO- http://there.example.test:8000"))
	require.Equal(t, "nameserver 192.0.2.53\nsearch example.test\n", u.run("tarn run --rm --dns 192.0.2.53 box cat /etc/resolv.conf"))
	hosts := u.run("tarn run --rm --hostname me --add-host there:10.1.2.3 box cat /etc/hosts")
	for _, line := range []string{hostAddress + "\tme\n", hostAddress6 + "\tme\n", "10.1.2.3\tthere\n"} {
		require.Contains(t, hosts, line)
	}

	// With --map-gw the gateway stands for the host, which has a name then.
	u.serveWeb(u.host, "127.0.0.1:8001")
	require.Equal(t, "hello 127.0.0.1\n", u.run("tarn run --rm --network pasta:--map-gw box wget -qO- http://host.containers.internal:8001"))
	require.NotContains(t, hosts, "host.containers.internal", "the host is not reached")
	require.Contains(t, u.fails("tarn run --rm --add-host h:host-gateway box true"), "no network with a gateway")
	u.fails("tarn run --rm box wget -T 2 -qO- http://" + worldAddress + ":8001")

	// In, from the host and from the world, to what the container serves on the addresses that are said.
	u.run(`tarn run -d --name web -p 8080:80 -p 127.0.0.1:8081:80 -p [::1]:8082:80 -p 5353:5353/udp --expose 443 box sh -c '
		mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www'`)
	for _, url := range []string{"http://127.0.0.1:8080", "http://[::1]:8080", "http://127.0.0.1:8081", "http://[::1]:8082"} {
		require.Equal(t, "served\n", u.fetch(u.host, url))
	}
	for _, url := range []string{"http://" + hostAddress + ":8080", "http://[" + hostAddress6 + "]:8080"} {
		require.Equal(t, "served\n", u.fetch(u.world, url))
	}
	inside, err := sys.OpenNamespace("/proc/"+strings.TrimSpace(u.run("tarn inspect -f '{{.State.Pid}}' web"))+"/ns/net", sys.NewNet)
	require.NoError(t, err)
	u.serveEcho(inside, ":5353")
	require.NoError(t, inside.Close())
	require.Equal(t, "echo", u.echo(u.world, hostAddress+":5353"))
	const ports = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/tcp -> 127.0.0.1:8081\n80/tcp -> [::1]:8082\n5353/udp -> 0.0.0.0:5353\n5353/udp -> [::]:5353\n"
	require.Equal(t, ports, u.run("tarn port web"))
	require.Equal(t, "pasta pasta "+hostAddress+" 24 "+worldAddress+" "+hostAddress6+"\n", u.run(
		`tarn inspect -f '{{.HostConfig.NetworkMode}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}} {{$v.IPPrefixLen}} {{$v.Gateway}} {{$v.GlobalIPv6Address}}{{end}}' web`))
	require.Equal(t, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:8081->80/tcp, [::1]:8082->80/tcp, 0.0.0.0:5353->5353/udp, [::]:5353->5353/udp, 443/tcp\n",
		u.run("tarn ps --format '{{.Ports}}'"))
	require.Contains(t, u.fails("tarn run --rm -p 8080:80 box true"), "bind for 0.0.0.0:8080 failed: port is already allocated (by container web)")
	require.Contains(t, u.fails("tarn run --rm -p 80:80 box true"), "ip_unprivileged_port_start")
	require.Contains(t, u.fails("tarn run --rm -p 1:1/sctp box true"), "tcp and udp only")

	// Another container may have the same network; and pasta goes with the one that it is for, however that ends.
	require.Equal(t, "served\n", u.run("tarn run --rm --network container:web box wget -qO- http://127.0.0.1"))
	require.Len(t, u.pastas(), 1)
	before := u.pastas()
	u.run("tarn rename web site; tarn restart -t 0 site")
	require.Len(t, u.pastas(), 1)
	require.NotEqual(t, before, u.pastas())
	require.Equal(t, ports, u.run("tarn port site"))
	require.Equal(t, "served\n", u.fetch(u.host, "http://127.0.0.1:8080"))
	u.run("tarn stop -t 0 site")
	u.noPastas()
	require.Empty(t, u.run("tarn port site"))
	u.run("tarn start site")
	require.Equal(t, "served\n", u.fetch(u.host, "http://127.0.0.1:8080"))
	monitor, err := strconv.Atoi(strings.TrimSpace(u.run("ps -o ppid= -p $(tarn inspect -f '{{.State.Pid}}' site)")))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(monitor, syscall.SIGKILL))
	u.noPastas()
	require.Contains(t, u.run("tarn ps -a"), "Exited")
	u.run("tarn rm -f site")
	require.Empty(t, u.run("ls run/tarn/networks/pasta"))

	// A container that starts again and again has one pasta, and no port of another's.
	u.run("tarn run -d --restart always --name again -P --expose 80 box sh -c 'sleep 0.1; exit 1'")
	require.Eventually(t, func() bool { return u.run("tarn inspect -f '{{.RestartCount}}' again") > "2" }, time.Minute, 50*time.Millisecond)
	require.LessOrEqual(t, len(u.pastas()), 1)
	u.run("tarn rm -f again")
	u.noPastas()
}

// What cannot be had is said before anything starts, with what to do.
func TestRootlessNetworkRefused(t *testing.T) {
	u := newOrdinary(t)
	u.run("tarn import --name box $BUSYBOX; mkdir few; ln -s $(command -v newuidmap newgidmap) few")
	for command, want := range map[string]string{
		"PATH=" + u.dir + "/bin:few tarn run --rm box true":                    "apt-get install passt",
		"PATH=" + u.dir + "/bin:few tarn run --rm -p 8080:80 box true":         "--network none or --network host",
		"PATH=" + u.dir + "/bin:few tarn create --network pasta:-t,1 box true": "apt-get install passt",
		"tarn run --rm --network bridge box true":                              "networks of bridges are for root",
		"tarn run --rm --network other box true":                               "networks of bridges are for root",
		"tarn network create other":                                            "networks of bridges are for root",
		"tarn run --rm --network pasta --ip 10.0.0.2 box true":                 "--ip needs a network of the container's own",
		"tarn run --rm --network pasta --network none box true":                "excludes others",
		"tarn run --rm --network pasta:--no-such-option box true":              "pasta: ",
		"tarn run --rm --network none -p 1:1 box true":                         "--publish needs a network",
	} {
		said := u.fails(command)
		require.Contains(t, said, want, command)
		require.Equal(t, 1, strings.Count(said, "\n"), "%s: %s", command, said)
	}
	require.Equal(t, "lo\n", u.run("PATH="+u.dir+"/bin:few tarn run --rm --network none box ls /sys/class/net"))
	require.Empty(t, u.run("tarn ps -aq; tarn network ls -q; tarn network prune -f"))

	// Without a way out, pasta cannot do anything.
	u.in(u.host, "ip", "link", "set", "up0", "down")
	require.Contains(t, u.fails("tarn run --rm box true"), "--network none or --network host")
	require.Empty(t, u.run("tarn ps -aq"))
	u.noPastas()
}

// Root may have it as well, instead of a bridge.
func TestPastaAsRoot(t *testing.T) {
	u := newOrdinary(t)
	u.serveWeb(u.world, ":8000")
	root := func(script string) string {
		t.Helper()
		return u.in(u.host, "sh", "-ec", "export PATH="+u.dir+"/bin:$PATH TARN_ROOT="+u.dir+"/store TARN_RUN="+u.dir+"/run; "+script)
	}
	t.Cleanup(func() { root("tarn rm -f $(tarn ps -aq) 2>/dev/null || true; tarn rmi box") })
	root("tarn import --name box " + u.dir + "/busybox.tar")
	require.Equal(t, "hello "+hostAddress+"\n", root("tarn run --rm --network pasta box wget -qO- http://"+worldAddress+":8000"))
	require.Equal(t, "hello "+hostAddress+"\n", root("tarn run --rm --userns auto --network pasta box wget -qO- http://"+worldAddress+":8000"))
	root(`tarn run -d --name web --network pasta -p 80:80 box sh -c 'mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www'`)
	require.Equal(t, "served\n", u.fetch(u.world, "http://"+hostAddress))
	root("tarn rm -f web")
	u.noPastas()
}
