// Command base builds the default image's only layer: a small userland of u-root's commands,
// compiled by gobusybox into one static binary with a link for each, as a zstd-compressed tar.
//
// The same sources and Go toolchain give the same bytes. It is a module of its own so that
// u-root is no dependency of tarn.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/gobusybox/src/pkg/bb"
	"github.com/u-root/gobusybox/src/pkg/golang"
)

const (
	uroot = "github.com/u-root/u-root"
	// The shell with the smaller of its two line editors: every command pays for what the others
	// link, at its start.
	tags = "goshliner"
)

func main() {
	out := flag.String("o", "base.tar.zst", "the `file` to write")
	flag.Parse()
	if err := run(context.Background(), *out); err != nil {
		log.Fatalf("build the base image: %v", err)
	}
}

func run(ctx context.Context, out string) error {
	work, err := os.MkdirTemp("", "tarn-base-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()

	// go.mod names u-root's commands as tools.
	packages, err := goList(ctx, "tool")
	if err != nil {
		return err
	}
	var names []string
	for _, p := range packages {
		names = append(names, filepath.Base(p))
	}
	binary := filepath.Join(work, "bb")
	if err := compile(packages, filepath.Join(work, "src"), binary); err != nil {
		return err
	}
	licenses, err := findLicenses(ctx, packages)
	if err != nil {
		return err
	}
	userland := userland{binary: binary, commands: names, version: version(licenses), licenses: licenses}
	return writeCompressed(out, userland.writeTar)
}

// aliasSources gives the two files that make bb answer to "sh" however it was started: without a
// path in argv[0] it cannot follow the link to gosh. Keyed by their place in the generated tree.
func aliasSources() map[string]string {
	return map[string]string{
		"pkg/bbmain/alias.go": "package bbmain\n\nfunc Alias(name, of string) { bbCmds[name] = bbCmds[of] }\n",
		"alias.go":            "package main\n\nimport \"bb.u-root.com/bb/pkg/bbmain\"\n\nfunc init() { bbmain.Alias(\"sh\", \"gosh\") }\n",
	}
}

func compile(packages []string, gopath, binary string) error {
	env := golang.Default(golang.WithBuildTag(tags))
	env.CgoEnabled = false
	if err := env.CompilerInit(); err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	err := bb.BuildBusybox(quiet, &bb.Opts{Env: env, GenSrcDir: gopath, CommandPaths: packages, BinaryPath: binary, GenerateOnly: true})
	if err != nil {
		return err
	}
	dir := filepath.Join(gopath, "src/bb.u-root.com/bb")
	for name, source := range aliasSources() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o644); err != nil {
			return err
		}
	}
	build := env.Copy(golang.WithGO111MODULE("off"), golang.WithGOPATH(gopath), golang.WithMod(""))
	return build.BuildDir(dir, binary, &golang.BuildOpts{})
}

// findLicenses maps each module linked into the packages ("path@version") to its license's text.
func findLicenses(ctx context.Context, packages []string) (map[string][]byte, error) {
	args := append([]string{"-deps", "-f", "{{with .Module}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}"}, packages...)
	modules, err := goList(ctx, args...)
	if err != nil {
		return nil, err
	}
	licenses := map[string][]byte{}
	for _, line := range modules {
		module, dir, ok := strings.Cut(line, " ")
		if !ok || licenses[module] != nil {
			continue
		}
		if licenses[module], err = license(dir); err != nil {
			return nil, fmt.Errorf("%s: %w", module, err)
		}
	}
	return licenses, nil
}

// license reads a module's license: its file of that name, or a README that states it.
func license(dir string) ([]byte, error) {
	for _, pattern := range []string{"LICENSE*", "COPYING*", "README*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return os.ReadFile(found[0])
		}
	}
	return nil, errors.New("no license file")
}

// version is u-root's, from among the linked modules.
func version(modules map[string][]byte) string {
	for module := range modules {
		if v, ok := strings.CutPrefix(module, uroot+"@"); ok {
			return v
		}
	}
	return "unknown"
}

// goList gives the lines that "go list" prints.
func goList(ctx context.Context, args ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-tags", tags}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.FieldsFunc(string(out), func(c rune) bool { return c == '\n' }), nil
}

// writeCompressed writes what write produces to the file out, whole or not at all.
func writeCompressed(out string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(out), ".base-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it is out, if all went well
	defer tmp.Close()
	// One goroutine: the bytes must not depend on the number of cores.
	z, err := zstd.NewWriter(tmp, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := write(z); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), out)
}
