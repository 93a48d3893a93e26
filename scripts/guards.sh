#!/usr/bin/env bash
# Shows that the tests of ways out of containers (container/cve_test.go, engine/cp_test.go), and of power cuts
# (cmd/tarn/power_test.go), can fail: each is run on a copy of the tree with one of its guards taken away, and must fail
# there. Needs root, as the tests do.
#
#   scripts/guards.sh [TEST]    all, or those of one test
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | tar --null --no-recursion --files-from=- --ignore-failed-read -cf - | tar -xf - -C "$copy"
cd "$copy"
bad=0

# without TEST FILE EXPRESSION [PACKAGE]: the expression, of perl, takes the guard away.
without() {
  local test=$1 file=$2 expression=$3 package=${4:-./container} output
  if [ -n "${only:-}" ] && [ "$only" != "$test" ]; then return; fi
  cp "$file" saved
  perl -0pi -e "$expression" "$file"
  if cmp -s "$file" saved; then
    echo "guards: $test: there is no such guard in $file any more: $expression" >&2
    bad=1
  elif ! output=$(go vet "$package" ./internal/sys 2>&1); then
    echo "guards: $test: without its guard in $file nothing builds: $output" >&2
    bad=1
  elif output=$(go test "$package" -count=1 -run "^$test\$" 2>&1); then
    echo "guards: $test passes without its guard in $file: $expression" >&2
    bad=1
  else
    echo "guards: $test fails without its guard in $file"
  fi
  mv saved "$file"
}

only=${1:-}
in_root='s/return openat2\(root, path, flags, unix\.RESOLVE_IN_ROOT\|unix\.RESOLVE_NO_MAGICLINKS\)/return openat2(root, ".\/"+path, flags, 0)/'
procfs='s/err != nil \|\| magic != sys\.MagicProc/false \&\& magic != 0/'

without TestCVE2019_5736 container/childprogram.go 's/p\.RefuseMagicLinks\(execStep, name\)/_ = name/'
without TestCVE2019_19921 container/mounts.go 's/return withoutLinks\(root, dest, sys\.OpenBeneath\)/return mountPoint(root, dest, directory)/'
without TestCVE2021_30465 internal/sys/inroot.go "$in_root"
without TestCVE2023_28642 container/proc.go 's/"cpuinfo", "diskstats"/"self", "self\/attr", "sys", "cpuinfo", "diskstats"/'
without TestCVE2023_28642 container/attributes.go "s/sys\\.OpenPath\\(\"\\/proc\"\\)/sys.OpenInRoot(m.cfg.Root, \"\\/proc\", sys.OpenAny)/; $procfs"
without TestCVE2024_21626 internal/sys/program.go 's/Resolve: unix\.RESOLVE_NO_MAGICLINKS,\n(\t\}\n\tstep := "chdir)/Resolve: 0,\n$1/'
without TestCVE2024_45310 container/root.go 's/f, err = makePath\(root, dest, want\)/if err = os.MkdirAll(sys.FDPath(root)+dest, 0o755); err == nil { f, err = sys.OpenInRoot(root, dest, sys.OpenAny) }/; s/\z/var _ = makePath\n/'
without TestCVE2025_31133 container/dev.go 's/if err == nil && \(node\.Type != sys\.TypeChar/if false \&\& (node.Type != sys.TypeChar/'
without TestCVE2025_52565 container/stdio.go 's/sys\.OpenEntry\(m\.tree\.dev, "console", sys\.OpenNoFollow\)/sys.OpenInRoot(m.cfg.Root, "\/dev\/console", sys.OpenAny)/; s/node\.Type != sys\.TypeRegular && node\.Type != sys\.TypeChar/false/; s/\tnode, err := sys\.StatNode\(target\)\n\tif err != nil \{\n\t\treturn err\n\t\}\n//'
without TestCVE2025_52881 internal/sys/inroot.go 's/RESOLVE_BENEATH\|unix\.RESOLVE_NO_SYMLINKS\|unix\.RESOLVE_NO_XDEV/RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS/'
without TestCVE2025_52881 container/sysctl.go "$procfs"
without TestCVE2025_52881 container/attributes.go "$procfs"
without TestCVE2026_41579 container/mounts.go 's/if dest == "\/dev" \{/if dest == "nowhere" {/'
without TestCVE2026_41567 engine/cp.go 's/stream, _, err := decompress\(opts\.Stdin\)/stream, err := inContainer(to.root, opts.Stdin)/; s/import \(/import (\n\t"os\/exec"\n\t"syscall"/; s/\z/
func inContainer(root *os.File, in io.Reader) (io.ReadCloser, error) {
	c := exec.Command("gzip", "-dc")
	c.Path, c.Stdin, c.SysProcAttr = "\/bin\/gzip", in, &syscall.SysProcAttr{Chroot: sys.FDPath(root)}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return out, c.Start()
}
/' ./engine
without TestCVE2026_41567 engine/cp.go 's/Follow: dest\.container != ""/Follow: true/; s/target\.Root, target\.Dir = opened, "\."/target.Dir = dir/' ./engine
without TestCVE2026_41568 internal/sys/inroot.go "$in_root"
without TestCVE2024_40635 container/user.go 's/id < 0 \|\| id > maxID/id < 0 \&\& id > maxID/'
without TestCVE2024_9676 internal/sys/inroot.go "$in_root"

# What a power cut takes if nobody waits for the disk.
export TARN_POWER_CUTS=50
power() { without TestPowerCuts "$1" "$2" ./cmd/tarn; }
power internal/atomicfile/atomicfile.go 's/func SyncDir\(dir string\) error \{/$&\n\tif dir != "" {\n\t\treturn nil\n\t}/'
power internal/atomicfile/atomicfile.go 's/if durable \{\n\t\tif err := f\.Sync\(\)/if false {\n\t\tif err := f.Sync()/'
power store/layers.go 's/errs\[i\] = f\.Sync\(\)/_, _ = i, f/; s/if err := sys\.StartWriteback\(f, 0, 0\); err != nil/if err := error(nil); f != nil \&\& err != nil/; s/\t"github\.com\/tarnfs\/tarn\/internal\/sys"\n//'
power store/blobwriter.go 's/if err := w\.file\.Sync\(\); err != nil/if err := error(nil); err != nil/'
power store/containers.go 's/if err == nil && durable \{\n\t\terr = atomicfile/if err == nil \&\& durable \&\& false {\n\t\terr = atomicfile/'
exit "$bad"
