#!/usr/bin/env bash
# Runs each fuzz target of the tree for FUZZTIME (20s), one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${FUZZTIME:-20s}
found=0
while IFS=: read -r file line; do
  target=${line#func }
  target=${target%%(*}
  found=$((found + 1))
  echo "== $(dirname "$file") $target ($time)"
  # Making inputs smaller is for the one that fails; of those that are only new it would take all the time.
  go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" -fuzzminimizetime=1s "./$(dirname "$file")"
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed 's|^\./||' | sort)
[ "$found" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
