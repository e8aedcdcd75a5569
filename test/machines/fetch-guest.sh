# fetch-guest.sh FOLDER: a bootable guest: Debian 12's kernel as it is, and an initrd of busybox, e2fsprogs and the modules below. About 15 s, 75 MB down.
# Gives FOLDER/vmlinux (uncompressed: boots in 2.3 s instead of 5.9 without KVM), FOLDER/initrd.cpio, and FOLDER/tool PROGRAM ARGS…, which runs
# e2fsprogs (sbin/e2fsck, sbin/debugfs) on this machine.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
folder=$1 root=$1/root initrd=$1/initrd
# What the guest may load, and by that what its initrd holds: the disk, its file system, and a share of this machine's files.
modules='nvme ext4 crc32c_generic crc32c_intel virtio_pci 9p 9pnet_virtio'

debian_open "$folder" bookworm
debian_unpack "$root" busybox-static e2fsprogs xz-utils
abi=$(debian_cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-\(6[^ ]*\)$/\1/p' | head -1)
(cd "$folder" && debian_download "linux-image-$abi")
dpkg-deb --fsys-tarfile "$folder"/linux-image-*.deb | tar -x -C "$root" --no-same-owner --wildcards \
  './boot/vmlinuz-*' "*/modules.*" '*/kernel/'{block,crypto,lib,fs,drivers/nvme,drivers/virtio,net/9p,arch/x86/crypto}'/*'
rm "$folder"/linux-image-*.deb
debian_close

own_loader "$folder/tool" root
busybox=$root/bin/busybox

# The kernel's ELF image lies compressed in vmlinuz: the setup header says where (Linux x86 boot protocol 2.08: setup_sects 0x1f1, payload_offset
# 0x248, payload_length 0x24c; the last four bytes are the unpacked size, not xz's).
vmlinuz=$root/boot/vmlinuz-$abi
number() { od -An -v -t "u$2" -j "$1" -N "$2" "$vmlinuz" | tr -d ' '; }
start=$((($(number 0x1f1 1) + 1) * 512 + $(number 0x248 4)))
dd if="$vmlinuz" iflag=skip_bytes,count_bytes skip=$start count=$(($(number 0x24c 4) - 4)) bs=1M status=none |
  "$folder/tool" usr/bin/xz -dc --single-stream > "$folder/vmlinux"

"$busybox" depmod -b "$root" "$abi"
mkdir -p "$initrd"/{bin,sbin,etc,proc,sys,dev,tmp,mnt,"lib/modules/$abi"}
for module in $modules; do
  grep -E "/${module//_/[-_]}\.ko:" "$root/lib/modules/$abi/modules.dep" | tr -d : | tr ' ' '\n'
done | sort -u | while read -r file; do
  (cd "$root/lib/modules/$abi" && cp --parents "$file" "$initrd/lib/modules/$abi/")
done
cp "$root/lib/modules/$abi"/modules.{builtin,order} "$initrd/lib/modules/$abi/"
"$busybox" depmod -b "$initrd" "$abi"

for name in $("$busybox" --list); do ln -sf busybox "$initrd/bin/$name"; done
cp --remove-destination "$busybox" "$initrd/bin/busybox"
# Here the kernel looks for it when a file system or a checksum needs a module.
ln -s ../bin/busybox "$initrd/sbin/modprobe"
rm "$initrd/bin/mke2fs"
copy_program "$root" sbin/mke2fs "$initrd"
ln -s mke2fs "$initrd/sbin/mkfs.ext4"
cp "$root/etc/mke2fs.conf" "$initrd/etc/"
cp "$here/guest-init" "$initrd/init"
chmod +x "$initrd/init"
(cd "$initrd" && find . | "$root/bin/busybox" cpio -o -H newc -R 0:0) > "$folder/initrd.cpio"
rm -rf "$initrd" "$root/boot" "$root/lib/modules"
