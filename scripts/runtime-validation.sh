#!/usr/bin/env bash
# Runs the official validation of OCI runtimes against tarn's, runc and crun, and prints what each passes
# and fails, side by side, as a table in Markdown: docs/runtime-validation.md. As root; some minutes.
# Usage: runtime-validation.sh [TEST...]
set -euo pipefail

# runc and crun leave mounts behind of a container in the host's mount namespace: they are gone with this one.
if [ -z "${TARN_VALIDATION_PRIVATE:-}" ]; then
  TARN_VALIDATION_PRIVATE=1 exec unshare --mount "$0" "$@"
fi

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
"$root/scripts/runtime-tools.sh"
"$root/scripts/docker.sh" # has runc
cd "$cache/runtime-tools"

tests=("$@")
if [ "${#tests[@]}" = 0 ]; then
  for file in *; do
    case $file in
      *.tar.gz | runtimetest) ;;
      *) tests+=("$file") ;;
    esac
  done
fi

# crun refuses a host with both cgroup versions: it sees version 1 alone.
if mountpoint -q /sys/fs/cgroup/unified; then
  crun=(unshare --mount sh -c 'umount /sys/fs/cgroup/unified; exec "$@"' -)
else
  crun=()
fi

# passes RUNTIME TEST: "passed/failed"; the tests give no other sign of a failure.
passes() {
  local out
  out=$(RUNTIME=$1 timeout 120 "${prefix[@]}" "./$2" 2>&1) || true
  echo "$(grep -c '^ok' <<<"$out" || true)/$(grep -c '^not ok' <<<"$out" || true)"
}

declare -A passed=() failed=()
echo "| test | tarn | runc | crun |"
echo "|---|---|---|---|"
for test in "${tests[@]}"; do
  line="| $test |"
  for runtime in tarn runc crun; do
    prefix=()
    case $runtime in
      tarn) program=$root/bin/tarn-runtime ;;
      runc) program=$cache/docker/usr/sbin/runc ;;
      crun) program=crun prefix=("${crun[@]}") ;;
    esac
    result=$(passes "$program" "$test")
    passed[$runtime]=$((${passed[$runtime]:-0} + ${result%/*}))
    failed[$runtime]=$((${failed[$runtime]:-0} + ${result#*/}))
    line+=" $result |"
  done
  echo "$line"
done
echo "| all | ${passed[tarn]}/${failed[tarn]} | ${passed[runc]}/${failed[runc]} | ${passed[crun]}/${failed[crun]} |"
