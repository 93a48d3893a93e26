#!/usr/bin/env bash
# Runs every test, those that need root included: as root directly, else the test programs (not
# the compiler) through sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

export TARN_TEST_CACHE=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
mkdir -p "$TARN_TEST_CACHE" # by this user, not by root
runner=()
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "make test mounts file systems and starts containers: run it as root, or install sudo" >&2
    exit 1
  fi
  as_root=(sudo env "TARN_TEST_CACHE=$TARN_TEST_CACHE")
  runner=(-exec "sudo env PATH=$PATH:/usr/sbin:/sbin TARN_TEST_CACHE=$TARN_TEST_CACHE CI=${CI:-}")
fi

scripts/setup.sh test
make base/image/base.tar.zst # embedded in what is tested
scripts/conformance.sh
"${as_root[@]}" scripts/debian-root.sh
"${as_root[@]}" scripts/erofs-utils.sh
"${as_root[@]}" scripts/docker.sh
"${as_root[@]}" scripts/nginx.sh
# The result depends on the kernel and the tools installed, which go's cache of results ignores.
exec go test -count=1 -timeout=30m "${runner[@]}" "$@" ./...
