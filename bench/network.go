package main

import (
	"context"
	"runtime"
	"syscall"
)

// networkFigure compares starts with the default network: a bridge, an address, and the way out. Both are on
// a host of their own, a network namespace; Docker makes its rules there with its iptables.
func networkFigure(ctx context.Context, lab *Lab) (all []Row, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Programs are children of this very thread, which is never unlocked, and so ends.
		runtime.LockOSThread()
		if err = syscall.Unshare(syscall.CLONE_NEWNET); err == nil {
			all, err = networkRows(ctx, lab)
		}
	}()
	<-done
	return all, err
}

func networkRows(ctx context.Context, lab *Lab) (all []Row, err error) {
	if err := command(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	store, err := lab.debian(ctx)
	if err != nil {
		return nil, err
	}
	d, err := lab.startDocker(ctx, "--iptables=true", "--ip-forward=true")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if err := d.run(ctx, "import", lab.tar, "debian"); err != nil {
		return nil, err
	}
	for _, once := range []func() error{
		func() error { return lab.tarnRun(ctx, store, "run", "--rm", "debian", "/bin/true") },
		func() error { return d.run(ctx, "run", "--rm", "debian", "/bin/true") },
		func() error { return settle(ctx) },
	} {
		if err := once(); err != nil {
			return nil, err
		}
	}
	compare := func(work string, args ...string) {
		if err != nil {
			return
		}
		args = append(append([]string{"run", "--rm"}, args...), "debian", "/bin/true")
		var more []Row
		more, err = rows(ctx, lab, Comparison{
			Work: work, Unit: Seconds, Bar: 0.2, Runs: 15,
			A: Side{Name: "tarn run --rm", Prepare: rest, Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error { return lab.tarnRun(ctx, store, args...) })
			}},
			B: Side{Name: "docker run --rm", Prepare: rest, Measure: func(ctx context.Context) (float64, error) {
				return timed(func() error { return d.run(ctx, args...) })
			}},
		})
		all = append(all, more...)
	}
	compare("run /bin/true in the default network, after a rest")
	compare("the same with a published port", "-p", "18080:80")
	return all, err
}
