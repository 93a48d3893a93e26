#!/usr/bin/env bash
# Makes a Docker for the tests of archives, and links it as docker in the cache directory: Debian's own,
# unpacked and not installed, since installing it starts a daemon that changes the machine's
# firewall. About 250 MB, made once. Needs apt and dpkg.
set -euo pipefail

cache=${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}
packages=(docker.io containerd runc libdevmapper1.02.1)
if apt-cache show docker-cli 2>/dev/null | grep -q '^Package:'; then
  packages+=(docker-cli) # a package of its own since Debian 13
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
[ ! -x "$cache/docker/usr/sbin/dockerd" ] || exit 0

echo "docker: making $cache/docker (once)" >&2
partial=$cache/.partial-docker
rm -rf "$partial"
mkdir -p "$partial/debs" "$partial/root"
# As root, apt would rather fetch as a user that cannot write here.
(cd "$partial/debs" && apt-get -o APT::Sandbox::User=root download "${packages[@]}" >"$cache/docker.log" 2>&1) ||
  { cat "$cache/docker.log" >&2; exit 1; }
for deb in "$partial"/debs/*.deb; do
  dpkg -x "$deb" "$partial/root"
done
mv -- "$partial/root" "$cache/docker"
rm -rf "$partial"
