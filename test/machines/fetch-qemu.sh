# fetch-qemu.sh FOLDER: QEMU 11 (with vfio-user-pci) and every library it needs. About 15 s, 37 MB down, 149 MB unpacked.
# FOLDER/qemu runs it through its own loader, whatever C library this machine has.
# Made of: debian.sh
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
debian_open "$1" trixie trixie-backports
debian_unpack "$1/root" qemu-system-x86
debian_close
cat > "$1/qemu" <<'Q'
#!/bin/sh
r=$(dirname "$(realpath "$0")")/root lib=usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR=$r/$lib/qemu
exec "$r/usr/lib64/ld-linux-x86-64.so.2" --library-path "$r/$lib:$r/$lib/pulseaudio:$r/$lib/systemd" \
  "$r/usr/bin/qemu-system-x86_64" -L "$r/usr/share/qemu" -L "$r/usr/share/seabios" -L "$r/usr/lib/ipxe/qemu" "$@"
Q
chmod +x "$1/qemu"
"$1/qemu" -device help 2>&1 | grep -q '"vfio-user-pci"' || { echo "this QEMU has no vfio-user-pci: $("$1/qemu" --version | head -1)" >&2; exit 1; }
