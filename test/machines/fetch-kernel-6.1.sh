# fetch-kernel-6.1.sh FOLDER: Debian 12's kernel as it is, for tests of its VFIO: by group and container, vfio-pci, and the module vdlog (test/kernel).
# Gives FOLDER/vmlinux, FOLDER/initrd.cpio and FOLDER/busybox, for run-kernel-guest. About 20 s, 85 MB down, and the part compiler.
# Made of: debian.sh programs.sh linux-image.sh initrd.sh guest-init kernel-modules.sh fetch-compiler.sh ../kernel/vdlog.c
set -euo pipefail
here=$(dirname "$(realpath "$0")")
for part in debian programs linux-image initrd kernel-modules; do . "$here/$part.sh"; done
folder=$1 root=$1/root initrd=$1/initrd

debian_open "$folder" bookworm
debian_unpack "$root" busybox-static xz-utils
abi=$(newest_linux)
unpack_linux "$folder" "$root" "$abi" {block,crypto,lib,fs,drivers/nvme,drivers/vfio,arch/x86/crypto,virt}'/*'
linux_headers "$root" "$abi"
debian_close

mkdir "$root/build"
cp "$here/../kernel/vdlog.c" "$root/build/"
echo 'obj-m := vdlog.o' > "$root/build/Kbuild"
build_modules "$root" "$abi" "$root/build"

initrd_open "$root" "$initrd" "$abi" nvme vfio_pci vfio_iommu_type1 vdlog
pack_initrd "$root" "$initrd" > "$folder/initrd.cpio"
cp "$root/bin/busybox" "$folder/busybox"
rm -rf "$initrd" "$root"
