// Command gendefault compiles Docker's default seccomp profile, for a container with Docker's
// default capabilities, into default_GOARCH.bpf for each machine tarn is built for.
// It runs by "go generate ./container/seccomp", after internal/gen.
package main

import (
	"log"
	"os"
	"slices"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container/seccomp"
)

func main() {
	log.SetFlags(0)
	for goarch, arch := range map[string]specs.Arch{
		"amd64":   specs.ArchX86_64,
		"arm64":   specs.ArchAARCH64,
		"riscv64": specs.ArchRISCV64,
		"loong64": specs.ArchLOONGARCH64,
		"ppc64le": specs.ArchPPC64LE,
		"s390x":   specs.ArchS390X,
	} {
		program, err := seccomp.Compile(resolve(moby.DefaultProfile(), goarch, arch), goarch)
		if err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile("default_"+goarch+".bpf", program, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

// defaultCaps are those of Docker's default capabilities that the profile asks for.
var defaultCaps = []string{"CAP_SYS_CHROOT"}

// resolve does for any machine what moby's GetDefaultProfile does for the one it runs on. All
// kernels tarn runs on are newer than the profile's least version (4.8).
func resolve(p *moby.Seccomp, goarch string, arch specs.Arch) *specs.LinuxSeccomp {
	out := p.LinuxSeccomp
	for _, a := range p.ArchMap {
		if a.Arch == arch {
			out.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	name := map[string]string{"loong64": "loongarch64"}[goarch]
	if name == "" {
		name = goarch
	}
	for _, call := range p.Syscalls {
		if e := call.Excludes; e != nil {
			if slices.Contains(e.Arches, name) || containsAny(defaultCaps, e.Caps) || e.MinKernel != nil {
				continue
			}
		}
		if i := call.Includes; i != nil {
			if len(i.Arches) > 0 && !slices.Contains(i.Arches, name) || !containsAll(defaultCaps, i.Caps) {
				continue
			}
		}
		out.Syscalls = append(out.Syscalls, call.LinuxSyscall)
	}
	return &out
}

func containsAny(set, some []string) bool {
	return slices.ContainsFunc(some, func(s string) bool { return slices.Contains(set, s) })
}

func containsAll(set, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(set, s) })
}
