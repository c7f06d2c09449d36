#!/usr/bin/env bash
# Runs a command in a Debian 13 root, which it makes first if there is none: TFX 1.21 needs a newer
# glibc (2.39) than Debian 12 and Ubuntu 22.04 have. Needs root and debootstrap.
#
#   tools/trixie.sh make STACK=current demo
#
# The root has Python 3.13, a C++ compiler, git and make, and sees this repository at its own path.
# Its virtual environments are its own: the command finds their folder in BYOL_VENVS.
#
#   TRIXIE_ROOT     where the root is kept, /var/tmp/trixie by default; delete the folder to start over
#   TRIXIE_MIRROR   a Debian mirror; by default the one that this machine's apt uses
set -euo pipefail

packages=ca-certificates,g++,git,libgomp1,make,python3-dev,python3-venv
root=${TRIXIE_ROOT:-/var/tmp/trixie}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "$1" >&2
    exit 1
}

(($#)) || fail "Give the command to run in Debian 13: tools/trixie.sh make STACK=current demo"
[[ $(id -u) == 0 ]] || fail "A Debian 13 root takes chroot and mounts: run tools/trixie.sh as root."

# Mounts are this process's own from here on: nothing is left of them when it ends, however it ends.
if [[ ${TRIXIE_UNSHARED:-} != "$$" ]]; then
    unshare --mount --propagation private true 2>/dev/null ||
        fail "This machine does not let root mount (a container without CAP_SYS_ADMIN?): run tools/trixie.sh on its host."
    TRIXIE_UNSHARED=$$ exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi

if [[ ! -d $root ]]; then
    command -v debootstrap >/dev/null ||
        fail "debootstrap is missing, which makes the Debian 13 root: apt-get install debootstrap"
    mirror=${TRIXIE_MIRROR:-}
    if [[ -z $mirror ]] && command -v apt-get >/dev/null; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | head -n 1)
    fi
    echo "Making a Debian 13 root in $root (once, some minutes) ..." >&2
    mkdir -p "$(dirname "$root")"
    work=$(mktemp -d "$root.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    debootstrap --variant=minbase --force-check-gpg --include="$packages" trixie "$work" \
        "${mirror:-http://deb.debian.org/debian}" >"$work.log" 2>&1 || {
        tail -n 5 "$work.log" >&2
        fail "debootstrap failed; the whole log is in $work.log, another mirror goes in TRIXIE_MIRROR."
    }
    rm "$work.log"
    chmod 755 "$work"
    mv -T "$work" "$root" # Last, so that an interrupted set-up starts over.
    trap - EXIT
fi

# What pip and make need to know of this machine's network.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt \
    "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf"; do
    [[ ! -e $file ]] || install -D -m 644 "$file" "$root${file/#$HOME//root}"
done
[[ -d ${PIP_FIND_LINKS:-} ]] || unset PIP_FIND_LINKS
keep=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin BYOL_VENVS=/var/lib/byol_tf)
while IFS= read -r name; do
    keep+=("$name=${!name}")
done < <(compgen -e | grep -E '^(PIP_|TF_|MAKEFLAGS$|TERM$|CI$)|_(CERTS?|CA_BUNDLE|CAINFO|CERT_FILE)$|^(https?|no|all)_proxy$|^(HTTPS?|NO|ALL)_PROXY$')

for folder in /proc /sys /dev; do
    mount --rbind "$folder" "$root$folder"
done
# A worktree's history lies in the repository that it belongs to.
history=$(cd "$repository" && realpath "$(git rev-parse --git-common-dir 2>/dev/null || echo .)")
for folder in "$repository" "$history" "${PIP_FIND_LINKS:-}"; do
    if [[ -d $folder ]]; then
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    fi
done
exec env -i "${keep[@]}" chroot "$root" sh -c 'cd "$0" && exec "$@"' "$repository" "$@"
