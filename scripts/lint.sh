#!/usr/bin/env bash
# Runs golangci-lint (which checks formatting as well) over both modules. The pinned version is
# built from source once per Go version and kept in the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tarn-tools/golangci-lint-$version-$(go env GOVERSION)
if [ ! -x "$bin/golangci-lint" ]; then
  echo "lint: building golangci-lint $version (once, some minutes)" >&2
  GOBIN=$bin CGO_ENABLED=0 go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
config=$PWD/.golangci.yml
"$bin/golangci-lint" run --allow-parallel-runners --config "$config" "$@" ./...
cd scripts/base
"$bin/golangci-lint" run --allow-parallel-runners --config "$config" "$@" ./...
