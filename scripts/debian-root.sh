#!/usr/bin/env bash
# Makes the Debian root file system that the tests and benchmarks use as real input, as a tar,
# and links it as debian.tar in the cache directory. Made once: the file's name holds a hash of
# the recipe below, and is kept between runs. Needs root and mmdebstrap.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}

suite=bookworm
# The tests run apt-get, dpkg, python3 and git in it; libcap2-bin, acl and attr set what a commit keeps.
packages=python3,git,ca-certificates,procps,libcap2-bin,acl,attr
recipe=(--variant=minbase --include="$packages" "$suite")

key=$(printf '%s\n' "${recipe[@]}" "$(dpkg --print-architecture)" | sha256sum | cut -c1-12)
tar=debian-$suite-$key.tar

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -s "$cache/$tar" ]; then
  echo "debian-root: making $cache/$tar (once, about a minute)" >&2
  partial=$cache/.partial-$tar
  rm -f "$partial"
  # Tests compare times to the nanosecond: every file's is clamped to one moment.
  if ! SOURCE_DATE_EPOCH=1700000000 mmdebstrap --mode=root --format=tar "${recipe[@]}" "$partial" 2>"$cache/mmdebstrap.log"; then
    cat "$cache/mmdebstrap.log" >&2
    exit 1
  fi
  sync -- "$partial"
  mv -- "$partial" "$cache/$tar"
fi
ln -sfn -- "$tar" "$cache/debian.tar"
