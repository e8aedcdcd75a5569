# fetch-guest-fio.sh FOLDER: the guest with fio in its initrd, as /usr/bin/fio. Debian's fio is linked to much: 45 MB down, about 25 s.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
folder=$1 root=$1/root initrd=$1/initrd
guest=$("$here/fetch" guest)

debian_open "$folder" bookworm
debian_unpack "$root" fio
debian_close
copy_program "$root" usr/bin/fio "$initrd"
# The kernel unpacks archives that follow one another into one root.
(cd "$initrd" && find . | "$guest/root/bin/busybox" cpio -o -H newc -R 0:0) | cat "$guest/initrd.cpio" - > "$folder/initrd.cpio"
cp --sparse=always "$guest/vmlinux" "$folder/vmlinux"
rm -rf "$initrd" "$root"
