#!/usr/bin/env bash
# Installs what the tests and the demo need and the machine lacks, with apt (Debian 12 or later).
# With nothing to install it returns at once. Usage: setup.sh [demo|test|bench]
set -euo pipefail

goal=${1:-test}

# program:package, or /path/with/pattern:package
needs=(make:make findmnt:util-linux umount:mount)
if [ "$goal" != demo ]; then
  needs+=(
    mmdebstrap:mmdebstrap               # makes the Debian root
    busybox:busybox-static              # a root small enough to be made in every test
    umoci:umoci skopeo:skopeo           # others' readings of the same formats
    strace:strace                       # counts what a command does
    fsck.erofs:erofs-utils
    docker-registry:docker-registry htpasswd:apache2-utils  # a real registry
    podman:podman buildah:buildah       # others that push and pull
    /lib/systemd/systemd:systemd        # makes cgroups for others
    useradd:passwd newuidmap:uidmap     # an ordinary user that has containers
    pasta:passt                         # whose network it is
    '/usr/lib/python3/dist-packages/seccomp*.so:python3-seccomp' # libseccomp judges our filters
    bsdtar:libarchive-tools              # its tars are not GNU tar's
    setfacl:acl setfattr:attr getcap:libcap2-bin
    mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs
    ip:iproute2 nft:nftables            # networks, seen by others' eyes
    iptables:iptables                    # a firewall with a policy of its own
    tmux:tmux ps:procps                  # a session in a terminal; "tarn top"
    zstd:zstd gzip:gzip unshare:util-linux script:bsdutils modprobe:kmod
  )
fi
if [ "$goal" = bench ]; then
  needs+=(crun:crun curl:curl /usr/bin/time:time)
fi

missing=()
for need in "${needs[@]}"; do
  what=${need%%:*} package=${need##*:}
  case $what in
    /*) compgen -G "$what" >/dev/null || missing+=("$package") ;;
    # Some of the programs live in sbin, which an ordinary user's PATH lacks.
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("$package") ;;
  esac
done
[ "${#missing[@]}" -gt 0 ] || exit 0

say() { echo "setup: $*" >&2; }
if ! command -v apt-get >/dev/null; then
  say "no apt-get here; install these (Debian's names) and try again: ${missing[*]}"
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    say "as root, run: apt-get install --no-install-recommends ${missing[*]}"
    exit 1
  fi
  as_root=(sudo)
fi
say "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1; }
# One source that cannot be read is no reason to stop: the packages may well be in the others.
apt update || say "apt-get update complained; going on with the lists there are"
if ! apt install -y --no-install-recommends "${missing[@]}"; then
  tail -n 30 "$log" >&2
  say "apt-get could not install: ${missing[*]}"
  exit 1
fi
