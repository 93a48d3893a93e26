#!/usr/bin/env bash
# Fetches Debian's nginx for the tests of networks, as packages to be unpacked into a Debian root, and puts them
# into the cache directory. About 700 kB, once. Needs apt.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
[ ! -d "$cache/nginx" ] || exit 0

echo "nginx: making $cache/nginx (once)" >&2
partial=$cache/.partial-nginx
rm -rf "$partial"
mkdir -p "$partial"
# As root, apt would rather fetch as a user that cannot write here.
(cd "$partial" && apt-get -o APT::Sandbox::User=root download nginx nginx-common >"$cache/nginx.log" 2>&1) ||
  { cat "$cache/nginx.log" >&2; exit 1; }
mv -- "$partial" "$cache/nginx"
