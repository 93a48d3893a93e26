#!/usr/bin/env bash
# Builds the official tests of the OCI distribution specification, which "tarn serve" must pass, and
# links them as conformance in the cache directory. They are a program, of a Go module of its own;
# this version is of August 2026. Built once.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
version=v0.0.0-20260831232431-97274622c111
bin=conformance-$version

mkdir -p "$cache"
if [ ! -x "$cache/$bin/conformance" ]; then
  echo "conformance: building $cache/$bin (once)" >&2
  GOBIN=$cache/$bin CGO_ENABLED=0 go install "github.com/opencontainers/distribution-spec/conformance@$version"
fi
ln -sfn -- "$bin/conformance" "$cache/conformance"
