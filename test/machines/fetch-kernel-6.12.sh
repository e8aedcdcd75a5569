# fetch-kernel-6.12.sh FOLDER: Linux 6.12 of Debian 12's backports, for tests of its VFIO. No kernel of Debian's has iommufd or VFIO's character device, so
# VFIO is built anew from Debian's source of that kernel, with what its configuration leaves out: devices by group, as a character device, and in iommufd;
# vfio-pci; the kernel's sample device mtty, which migrates; and the module vdlog (test/kernel).
# Gives FOLDER/vmlinux, FOLDER/initrd.cpio and FOLDER/busybox, for run-kernel-guest. About 60 s, 270 MB down, and the part compiler.
# Made of: debian.sh programs.sh linux-image.sh initrd.sh guest-init kernel-modules.sh vfio-modules.sh fetch-compiler.sh ../kernel/vdlog.c
set -euo pipefail
here=$(dirname "$(realpath "$0")")
for part in debian programs linux-image initrd kernel-modules vfio-modules; do . "$here/$part.sh"; done
folder=$1 root=$1/root initrd=$1/initrd

debian_open "$folder" bookworm bookworm-backports
debian_unpack "$root" busybox-static xz-utils zstd
abi=$(newest_linux)
unpack_linux "$folder" "$root" "$abi" {block,crypto,lib,fs,drivers/nvme,arch/x86/crypto,virt}'/*'
linux_headers "$root" "$abi"
linux_source "$root" 6.12 drivers/{vfio,iommu} samples/vfio-mdev lib/interval_tree.c
debian_close

vfio_sources "$root/source" "$root/build"
cp "$here/../kernel/vdlog.c" "$root/build/"
build_modules "$root" "$abi" "$root/build"

initrd_open "$root" "$initrd" "$abi" nvme vfio_pci vfio_iommu_type1 iommufd mtty vdlog
pack_initrd "$root" "$initrd" > "$folder/initrd.cpio"
cp "$root/bin/busybox" "$folder/busybox"
rm -rf "$initrd" "$root"
