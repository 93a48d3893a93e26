package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is a program that runs beside the measurements.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
	log   bytes.Buffer
}

// startDaemon starts a program and waits until ready says that it can be used.
func startDaemon(ctx context.Context, env []string, ready func() bool, name string, args ...string) (*daemon, error) {
	d := &daemon{cmd: exec.CommandContext(ctx, name, args...), ended: make(chan struct{})}
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = d.cmd.Wait(); close(d.ended) }()
	for !ready() {
		select {
		case <-d.ended:
			return nil, fmt.Errorf("%s ended at once:\n%s", name, d.log.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return d, nil
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.ended
}

// registry is Debian's docker-registry on the loopback interface, with the images that are pulled.
type registry struct {
	*daemon
	host string
}

func (l *Lab) startRegistry(ctx context.Context) (*registry, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	config := l.path("registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", l.path("registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	answers := func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	d, err := startDaemon(ctx, nil, answers, "docker-registry", "serve", config)
	return &registry{d, host}, err
}

// podman gives the arguments of a podman with a store of its own, below the lab.
func (l *Lab) podman(args ...string) []string {
	return append([]string{
		"podman", "--root", l.path("podman/root"), "--runroot", l.path("podman/run"), "--storage-driver", "overlay",
	}, args...)
}

// docker is a Docker daemon with a store below the lab; scripts/docker.sh makes the programs.
type docker struct {
	*daemon
	client []string
	env    []string
}

// It makes no network unless these arguments say how.
func (l *Lab) startDocker(ctx context.Context, networks ...string) (*docker, error) {
	if len(networks) == 0 {
		networks = []string{"--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"}
	}
	root := filepath.Join(filepath.Dir(l.dir), "docker")
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu*"))
	if err != nil {
		return nil, err
	}
	more, err := filepath.Glob(filepath.Join(root, "lib/*-linux-gnu*"))
	if err != nil {
		return nil, err
	}
	env := []string{
		"PATH=" + filepath.Join(root, "usr/bin") + ":" + filepath.Join(root, "usr/sbin") + ":" + os.Getenv("PATH"),
		"LD_LIBRARY_PATH=" + strings.Join(append(libs, more...), ":"), "DOCKER_CONFIG=" + l.path("docker-config"),
	}
	config, socket := l.path("docker.json"), l.path("docker.sock")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	listens := func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}
	d, err := startDaemon(ctx, env, listens, filepath.Join(root, "usr/sbin/dockerd"), append([]string{
		"--host", "unix://" + socket, "--data-root", l.path("docker/data"), "--exec-root", l.path("docker/exec"),
		"--pidfile", l.path("docker.pid"), "--config-file", config, "--storage-driver", "overlay2",
	}, networks...)...)
	if err != nil {
		return nil, fmt.Errorf("%w (scripts/docker.sh makes it)", err)
	}
	return &docker{d, []string{filepath.Join(root, "usr/bin/docker"), "--host", "unix://" + socket}, env}, nil
}

func (d *docker) run(ctx context.Context, args ...string) error {
	all := append(d.client[1:len(d.client):len(d.client)], args...)
	_, err := output(ctx, d.env, d.client[0], all...)
	return err
}

// publish fills the registry: the Debian root as one layer, compressed by gzip and by zstd, and in ten layers.
func (l *Lab) publish(ctx context.Context, r *registry) (blob string, err error) {
	s := l.newStore("publisher")
	if err := l.tarnRun(ctx, s, "import", "--name", "one", l.tar); err != nil {
		return "", err
	}
	for _, compression := range []string{"gzip", "zstd"} {
		if err := l.tarnRun(ctx, s, "push", "--compression", compression, "one", r.host+"/one:"+compression); err != nil {
			return "", err
		}
	}
	archive := l.path("ten.tar")
	if err := splitArchive(archive, l.tar, "ten", 10); err != nil {
		return "", err
	}
	if err := l.tarnRun(ctx, s, "load", "--input", archive); err != nil {
		return "", err
	}
	for _, compression := range []string{"gzip", "zstd"} {
		if err := l.tarnRun(ctx, s, "push", "--force-compression", "--compression", compression, "ten", r.host+"/ten:"+compression); err != nil {
			return "", err
		}
	}
	blob, err = l.tarnOutput(ctx, s, "inspect", "--remote", "--format", "{{(index .Layers 0).Digest}}", r.host+"/one:gzip")
	return blob, errors.Join(err, os.Remove(archive), os.RemoveAll(l.path("publisher")))
}
