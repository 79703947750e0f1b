#!/usr/bin/env bash
# Distribution packages: QEMU, its firmware, the compilers that build the guest images, Python's venv.
#   packages.sh DEV   DEV=1 adds what guests of the other architecture need
set -euo pipefail
source "$(dirname "$0")/say.sh"

missing=()
need() { # need COMMAND-OR-FILE PACKAGE
    case "$1" in
        /*) [ -e "$1" ] || missing+=("$2") ;;
        *) command -v "$1" >/dev/null 2>&1 || missing+=("$2") ;;
    esac
}
need qemu-system-x86_64 qemu-system-x86
need /usr/share/seabios/bios-256k.bin seabios
need gcc gcc
need ld binutils
need make make
need git git
need python3 python3
need setpriv util-linux
if [ "${1:-1}" = 1 ]; then
    need qemu-system-aarch64 qemu-system-arm
    [ "$(uname -m)" = aarch64 ] || need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
fi
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    die "missing: ${missing[*]}" \
        "install QEMU 7.2 or newer (x86_64 and aarch64 system emulation), SeaBIOS, gcc, a gcc for aarch64, binutils, make, util-linux and Python 3.11 with venv; Debian 12's package names are given above, and as root there this script installs them"
fi
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}" "run 'apt-get install ${missing[*]}' by hand and read what it says"
