#!/usr/bin/env bash
# Makes a recent fsck.erofs for the tests, and links it as fsck.erofs in the cache directory:
# Debian 12's own (1.5) knows no 512-byte blocks. It is Debian 13's, unpacked and not installed,
# run with its own libraries; about 17 MB, made once. Needs root and mmdebstrap.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
suite=trixie
root=erofs-utils-$suite

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -x "$cache/$root/fsck.erofs" ]; then
  echo "erofs-utils: making $cache/$root (once)" >&2
  partial=$cache/.partial-$root
  rm -rf "$partial"
  if ! mmdebstrap --mode=root --variant=extract --include=erofs-utils "$suite" "$partial" 2>"$cache/erofs-utils.log"; then
    cat "$cache/erofs-utils.log" >&2
    exit 1
  fi
  cat > "$partial/fsck.erofs" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
for loader in "$root"/usr/lib64/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.*; do
  [ -e "$loader" ] || continue
  exec "$loader" --library-path "$(echo "$root"/usr/lib/*-linux-gnu*)" "$root/usr/bin/fsck.erofs" "$@"
done
echo "no dynamic loader in $root" >&2
exit 1
WRAPPER
  chmod 755 "$partial/fsck.erofs"
  mv -- "$partial" "$cache/$root"
fi
ln -sfn -- "$root/fsck.erofs" "$cache/fsck.erofs"
