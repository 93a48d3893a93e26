#!/usr/bin/env bash
# Builds the official validation of OCI runtimes (opencontainers/runtime-tools) and links it as
# runtime-tools in the cache directory. scripts/runtime-tools/go.mod has the versions. Built once.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
cd "$(dirname "$0")/runtime-tools"
dir=runtime-tools-$(cat go.mod go.sum | sha256sum | cut -c1-12)

mkdir -p "$cache"
if [ ! -x "$cache/$dir/runtimetest" ]; then
  echo "runtime-tools: building $cache/$dir (once)" >&2
  module=github.com/opencontainers/runtime-tools
  mkdir -p "$cache/$dir.partial"
  CGO_ENABLED=0 go build -o "$cache/$dir.partial/" "$module/validation/..." "$module/cmd/runtimetest"
  cp "$(go list -m -f '{{.Dir}}' "$module")/rootfs-$(go env GOARCH).tar.gz" "$cache/$dir.partial/"
  rm -rf "${cache:?}/$dir"
  mv -- "$cache/$dir.partial" "$cache/$dir"
fi
ln -sfn -- "$dir" "$cache/runtime-tools"
