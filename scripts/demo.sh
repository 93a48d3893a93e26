#!/usr/bin/env bash
# Shows what tarn does on the image that is embedded in it, in a store of its own that is removed
# at the end. Each step checks its result: when this script exits with 0, all of it was true.
# "make demo" builds first; run as it is, where there is no make yet, this installs it and builds.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh demo
[ -x bin/tarn ] || make build
if [ "$(id -u)" != 0 ]; then
  # With numbers for the users of containers (subuid(5)), root is not needed.
  if command -v newuidmap >/dev/null && grep -qE "^($(id -un)|$(id -u)):" /etc/subuid && grep -qE "^($(id -un)|$(id -u)):" /etc/subgid; then
    exec bin/tarn unshare "$0"
  fi
  if ! command -v sudo >/dev/null; then
    echo "demo: containers and mounts need root: run 'make demo' as root, or install sudo" >&2
    exit 1
  fi
  exec sudo "TARN_DEMO_DIR=${TARN_DEMO_DIR:-}" "TARN_STORAGE_DRIVER=${TARN_STORAGE_DRIVER:-}" "$0"
fi

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

# File-backed EROFS needs a real disk; /tmp may be a tmpfs.
work=$(mktemp -d "${TARN_DEMO_DIR:-/var/tmp}/tarn-demo.XXXXXX")
export TARN_ROOT=$work/root TARN_RUN=$work/run
clean_up() {
  # The layers stay mounted for the next container; here there is none.
  findmnt --raw --noheadings --output TARGET | { grep "^$work/" || true; } | sort -r | xargs -r -d '\n' umount --lazy
  rm -rf "$work"
}
trap clean_up EXIT

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() {
  echo "demo: $*" >&2
  exit 1
}
# Shows a tarn command, runs it, and shows what it printed, which it keeps in $output.
tarn() {
  local shown='$ tarn' word
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@,-]+$ ]]; then shown+=" $word"; else shown+=" '$word'"; fi
  done
  printf '%s\n' "$shown"
  output=$(bin/tarn "$@") || fail "tarn $1 failed with status $?"
  [ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/    /'
}
expect() { grep -qE -- "$1" <<<"$output" || fail "expected a line like '$1'"; }

title "1. Run a command in the image 'base', which is embedded in the binary"
tarn run --rm --network none base uname -s
expect '^Linux$'
tarn run --rm --network none --hostname demo base cat /etc/os-release
expect '^NAME="tarn base"$'

title "2. Change files in a container: what it writes is a layer of its own"
tarn run --network none --name first base sh -c 'echo "Hello from a layer" > /greeting; mkdir /srv; echo 1 > /srv/data; rm /etc/os-release'
tarn ps -a
expect 'first'

title "3. What has changed? (A added, C changed, D deleted)"
tarn diff first
expect '^A /greeting$'
expect '^A /srv/data$'
expect '^D /etc/os-release$'

title "4. Commit that as an image, and run it"
tarn commit --message 'say hello' --change 'CMD ["cat", "/greeting"]' first hello
tarn run --rm --network none hello
expect '^Hello from a layer$'
if bin/tarn run --rm --network none hello cat /etc/os-release >/dev/null 2>&1; then fail "a deleted file is back"; fi
echo "(and /etc/os-release, which was deleted, is gone)"

title "5. A second image on the same base"
tarn run --network none --name second hello sh -c 'seq 1 1000 > /srv/numbers'
tarn commit --message 'count' second numbers
tarn images
expect 'hello'
expect 'numbers'

title "6. Its layers: 'numbers' shares all but the last"
tarn layers numbers
tarn history numbers
expect 'count'
base=$(bin/tarn inspect --format '{{index .RootFS.Layers 0}}' base)
for image in hello numbers; do
  [ "$(bin/tarn inspect --format '{{index .RootFS.Layers 0}}' "$image")" = "$base" ] || fail "$image does not share the layer of base"
done

title "7. Look into an image from outside: the whole root is mounted as a directory"
tarn mount numbers
directory=$output
printf '$ tail -n 1 .../srv/numbers\n    %s\n' "$(tail -n 1 "$directory/srv/numbers")"
[ "$(tail -n 1 "$directory/srv/numbers")" = 1000 ] || fail "$directory/srv/numbers does not end in 1000"
if touch "$directory/x" 2>/dev/null; then fail "an image can be written"; fi
tarn umount numbers

title "8. On disk: each layer is there once, as its tar, byte for byte, and an index to mount it by"
layers=0
for layer in "$TARN_ROOT"/layers/*/; do
  id=$(basename "$layer")
  [ "$(sha256sum <"$layer/layer.tar")" = "$id  -" ] || fail "layer $id is not its tar"
  printf '    %.12s   layer.tar %5s   index.erofs %5s\n' "$id" "$(du -h "$layer/layer.tar" | cut -f1)" "$(du -h "$layer/index.erofs" | cut -f1)"
  layers=$((layers + 1))
done
[ "$layers" = 3 ] || fail "three images on one base should keep 3 layers, not $layers"
apart=0
for image in base hello numbers; do apart=$((apart + $(bin/tarn inspect --format '{{.Size}}' "$image"))); done
together=$(du -s --block-size=1 "$TARN_ROOT/layers" | cut -f1)
driver=$(bin/tarn inspect --format '{{.GraphDriver.Name}}' base)
if [ "$driver" = erofs ]; then
  [ $((together * 2)) -lt "$apart" ] || fail "three images on one base take $together bytes"
else
  echo "    (this kernel, or the file system of $work, cannot mount the index: the layers were extracted, too)"
fi
printf 'Three images of %s take %s.\n' "$(numfmt --to=si --suffix=B --format=%.1f "$((apart / 3))")" "$(numfmt --to=si --suffix=B --format=%.1f "$together")"

title "9. Remove it all"
tarn rm first second
tarn rmi numbers hello base
[ "$(find "$TARN_ROOT/layers" -name layer.tar | wc -l)" = 0 ] || fail "layers are left behind"

printf '\nThat is all. No daemon ran, and nothing is left.\n'
