package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// runtimeFigure measures the OCI runtime beside the others that engines use, with the same bundle:
// crun's own default configuration over a Debian root.
func runtimeFigure(ctx context.Context, lab *Lab) ([]Row, error) {
	bundle, err := lab.bundle(ctx)
	if err != nil {
		return nil, err
	}
	runc := filepath.Join(lab.cache, "docker/usr/sbin/runc")
	if _, err := os.Stat(runc); err != nil {
		return nil, fmt.Errorf("%w: scripts/docker.sh makes it", err)
	}
	tarn := ociRuntime{name: "tarn-runtime", bundle: bundle, command: []string{filepath.Join(filepath.Dir(lab.tarn), "tarn-runtime"), "--root", lab.path("runtime")}}
	crun := ociRuntime{name: "crun", bundle: bundle, command: []string{"crun"}}
	other := ociRuntime{name: "runc", bundle: bundle, command: []string{runc}}
	if err := settle(ctx); err != nil { // the bundle's files are many
		return nil, err
	}
	const runs = 40
	run, how := "OCI runtime: run a bundle", map[bool]string{true: ", after a rest (docs/adr/start-up.md)", false: ", one after the other"}
	var measurements []interface {
		Row(ctx context.Context, lab *Lab) (Row, error)
	}
	for _, rested := range []bool{true, false} {
		measurements = append(measurements,
			Comparison{Work: run + how[rested], Unit: Seconds, Bar: 0.7, Runs: runs, A: tarn.run(rested), B: crun.run(rested)},
			Comparison{Work: run + how[rested], Unit: Seconds, Bar: 0.3, Runs: runs, A: tarn.run(rested), B: other.run(rested)},
			Comparison{Work: "OCI runtime: create, start, delete" + how[rested], Unit: Seconds, Bar: 1, Runs: runs, A: tarn.steps(rested), B: crun.steps(rested)},
		)
	}
	measurements = append(measurements,
		Comparison{Work: "OCI runtime: peak memory of run", Unit: Bytes, Bar: 1.5, Runs: 5, A: tarn.memory(), B: crun.memory()},
		Comparison{Work: "OCI runtime: peak memory of run", Unit: Bytes, Bar: 1, Runs: 5, A: tarn.memory(), B: other.memory()},
	)
	all, err := rows(ctx, lab, measurements...)
	if err != nil {
		return nil, err
	}
	tight, err := tarn.tight(ctx)
	return append(all, tight), errors.Join(err, os.RemoveAll(bundle))
}

// tightLimit is the memory of a container that has very little.
const tightLimit = 4 << 20

// tight runs a container whose memory is limited to 4 MB.
func (r *ociRuntime) tight(ctx context.Context) (Row, error) {
	path := filepath.Join(r.bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return Row{}, err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return Row{}, err
	}
	linux, ok := config["linux"].(map[string]any)
	if !ok {
		return Row{}, errors.New("the bundle has no linux")
	}
	linux["resources"] = map[string]any{"memory": map[string]any{"limit": tightLimit}}
	limited, err := json.Marshal(config)
	if err != nil {
		return Row{}, err
	}
	if err := os.WriteFile(path, limited, 0o644); err != nil {
		return Row{}, err
	}
	row := Row{Work: "OCI runtime: a container with a memory limit of 4 MB", Measured: "starts, and ends well", Bar: "starts", Met: true}
	if err := r.do(ctx, "run", "--bundle", r.bundle, benchID); err != nil {
		row.Measured, row.Met = err.Error(), false
	}
	row.print("1 run")
	return row, os.WriteFile(path, text, 0o644)
}

// ociRuntime is a program with runc's command line.
type ociRuntime struct {
	name, bundle string
	command      []string
}

const benchID = "tarn-bench-runtime"

func (r *ociRuntime) do(ctx context.Context, args ...string) error {
	return command(ctx, r.command[0], append(r.command[1:], args...)...)
}

func (r *ociRuntime) run(rested bool) Side {
	return Side{Name: r.name, Prepare: restIf(rested), Measure: func(ctx context.Context) (float64, error) {
		return timed(func() error { return r.do(ctx, "run", "--bundle", r.bundle, benchID) })
	}}
}

func restIf(rested bool) func(context.Context) error {
	if rested {
		return rest
	}
	return nil
}

// steps is the life of a container by separate commands, without the life of its process.
func (r *ociRuntime) steps(rested bool) Side {
	return Side{Name: r.name, Prepare: restIf(rested), Measure: func(ctx context.Context) (float64, error) {
		before, err := timed(func() error {
			if err := r.create(ctx); err != nil {
				return err
			}
			return r.do(ctx, "start", benchID)
		})
		if err != nil {
			return 0, err
		}
		for {
			state, err := output(ctx, nil, r.command[0], append(r.command[1:], "state", benchID)...)
			if err != nil {
				return 0, err
			}
			if strings.Contains(state, `"stopped"`) {
				break
			}
		}
		after, err := timed(func() error { return r.do(ctx, "delete", benchID) })
		return before + after, err
	}}
}

// create gives the container no pipe of ours: it would be waited for.
func (r *ociRuntime) create(ctx context.Context) error {
	return exec.CommandContext(ctx, r.command[0], append(r.command[1:], "create", "--bundle", r.bundle, benchID)...).Run()
}

// memory is the most that the runtime, or the container, has resident. time(1) stands in between: to the
// kernel, what a process has before its first exec is its own, and that is a copy of its parent.
func (r *ociRuntime) memory() Side {
	return Side{Name: r.name, Measure: func(ctx context.Context) (float64, error) {
		args := append([]string{"-f", "%M", "-o", "/dev/stdout"}, r.command...)
		out, err := output(ctx, nil, "/usr/bin/time", append(args, "run", "--bundle", r.bundle, benchID)...)
		if err != nil {
			return 0, err
		}
		kib, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		return kib * 1024, err
	}}
}
