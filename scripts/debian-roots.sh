#!/usr/bin/env bash
# Makes ten Debian root file systems for the benchmark of disk use, as tars 01.tar to 10.tar in the
# directory debian-roots of the cache, unless they are there. Each is built by itself, as people's
# base images are: on another day (so the times of directories and of generated files differ), some
# before updates and some after them, each with packages of its own. Needs root and mmdebstrap.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}

suite=bookworm
base=python3,git,ca-certificates,procps
# "as released" leaves the updates out.
roots=(
  "released:"
  "updated:"
  "updated:curl,wget,jq"
  "updated:nginx-light,logrotate"
  "released:vim-tiny,less,man-db"
  "updated:openssh-client,rsync,tmux"
  "updated:postgresql-client,sqlite3"
  "updated:redis-server"
  "released:python3-pip,python3-requests"
  "updated:ruby,bundler"
)
# When the first was built; the others followed, two days apart. It is later than the packages are, or
# mmdebstrap would clamp times in all of them, which no two builds of a real root have different.
first=1793000000
step=172800

key=$(printf '%s\n' "$suite" "$base" "${roots[@]}" "$first" "$step" "$(dpkg --print-architecture)" | sha256sum | cut -c1-12)
dir=$cache/debian-roots-$key

make_root() { # FLAVOR PACKAGES EPOCH TAR
  local options=(--mode=root --format=tar --variant=minbase --include="$base${2:+,$2}")
  if [ "$1" = released ]; then
    options+=(--setup-hook='sed -i "/updates\|security/d" "$1/etc/apt/sources.list"')
  fi
  local partial=$dir/.partial
  rm -f "$partial"
  if ! SOURCE_DATE_EPOCH=$3 mmdebstrap "${options[@]}" "$suite" "$partial" 2>"$cache/mmdebstrap.log" 9>&-; then
    cat "$cache/mmdebstrap.log" >&2
    return 1
  fi
  mv -- "$partial" "$4"
}

mkdir -p "$dir"
exec 9>"$cache/.roots-lock"
flock 9
for i in "${!roots[@]}"; do
  tar=$dir/$(printf '%02d' $((i + 1))).tar
  [ ! -s "$tar" ] || continue
  echo "debian-roots: making $tar (once)" >&2
  make_root "${roots[i]%%:*}" "${roots[i]#*:}" $((first + i * step)) "$tar"
done
ln -sfn -- "$(basename "$dir")" "$cache/debian-roots"
