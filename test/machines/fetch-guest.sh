# fetch-guest.sh FOLDER: a bootable guest: Debian 12's kernel as it is, and an initrd of busybox, e2fsprogs and the modules below. About 15 s, 75 MB down.
# Gives FOLDER/vmlinux (uncompressed), FOLDER/initrd.cpio, and FOLDER/tool PROGRAM ARGS…, which runs e2fsprogs (sbin/e2fsck, sbin/debugfs) on this
# machine.
# Made of: debian.sh programs.sh linux-image.sh initrd.sh guest-init
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
. "$here/linux-image.sh"
. "$here/initrd.sh"
folder=$1 root=$1/root initrd=$1/initrd
# What the guest may load, and by that what its initrd holds: the disk, its file system, and a share of this machine's files.
modules='nvme ext4 crc32c_generic crc32c_intel virtio_pci 9p 9pnet_virtio'

debian_open "$folder" bookworm
debian_unpack "$root" busybox-static e2fsprogs xz-utils
abi=$(newest_linux)
unpack_linux "$folder" "$root" "$abi" {block,crypto,lib,fs,drivers/nvme,drivers/virtio,net/9p,arch/x86/crypto}'/*'
debian_close

own_loader "$folder/tool" root
initrd_open "$root" "$initrd" "$abi" $modules
rm "$initrd/bin/mke2fs"
copy_program "$root" sbin/mke2fs "$initrd"
ln -s mke2fs "$initrd/sbin/mkfs.ext4"
cp "$root/etc/mke2fs.conf" "$initrd/etc/"
pack_initrd "$root" "$initrd" > "$folder/initrd.cpio"
rm -rf "$initrd" "$root/boot" "$root/lib/modules"
