#!/usr/bin/env bash
# Put QEMU from Debian's backports suite beside the distribution's own, unpacked and not installed, for the version tests:
#   qemu-backports.sh 10.0   ->   .cache/qemu-10.0/bin/qemu-system-{x86_64,aarch64}
# The mirror is the one that this machine's apt already uses.
set -euo pipefail
cd "$(dirname "$0")/../.."
source ci/lib/say.sh

version=$1
home=$PWD/.cache/qemu-$version
[ -x "$home/bin/qemu-system-x86_64" ] && "$home/bin/qemu-system-x86_64" --version 2>/dev/null | grep -q " $version" && exit 0
skip() { say "no second QEMU ($1): version tests will say unsupported"; exit 0; }
command -v apt-get >/dev/null || skip "not a Debian machine; put one into $home/bin yourself"

suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(CREATED_BY)' |
    awk -v suite="$suite" '$2 == suite && $3 == "main" && $4 == "Packages" {print $1; exit}')
[ -n "$mirror" ] || skip "apt knows no mirror of $suite"

say "unpacking QEMU $version from $suite-backports"
rm -rf "$home.part"
mkdir -p "$home.part"/{apt/lists/partial,apt/archives/partial,apt/etc,tree,bin}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for name in "$suite" "$suite-backports"; do
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$name"
done >"$home.part/apt/etc/sources.list"
private=(-q
    -o Dir::Etc::SourceList="$home.part/apt/etc/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$home.part/apt/lists" -o Dir::Cache="$home.part/apt"
    -o Acquire::Languages=none -o APT::Sandbox::User=root)
apt-get "${private[@]}" update >/dev/null || skip "the suite $suite-backports cannot be read"
apt-get "${private[@]}" install --yes --download-only --no-install-recommends --reinstall -t "$suite-backports" \
    qemu-system-x86 qemu-system-arm qemu-system-common qemu-system-data seabios >/dev/null || skip "its packages cannot be downloaded"
for package in "$home.part"/apt/archives/*.deb; do dpkg -x "$package" "$home.part/tree"; done

lib=$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
for target in x86_64 aarch64; do
    cat >"$home.part/bin/qemu-system-$target" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../tree
export LD_LIBRARY_PATH="\$root/usr/lib/$lib:\$root/lib/$lib"
export QEMU_MODULE_DIR="\$root/usr/lib/$lib/qemu"
exec "\$root/usr/bin/qemu-system-$target" -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" "\$@"
WRAPPER
    chmod 755 "$home.part/bin/qemu-system-$target"
done
found=$("$home.part/bin/qemu-system-x86_64" --version 2>&1 | head -1) || skip "the unpacked binary does not start: $found"
case "$found" in
    *" $version"*) ;;
    *) skip "$suite-backports carries '$found'" ;;
esac
rm -rf "$home.part/apt" "$home.part/tree/usr/share/doc" "$home.part/tree/usr/share/man" "$home"
mv "$home.part" "$home"
