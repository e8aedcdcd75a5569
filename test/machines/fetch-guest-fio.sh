# fetch-guest-fio.sh FOLDER: the guest with fio in its initrd, as /usr/bin/fio. Debian's fio is linked to much: 45 MB down, about 25 s.
# Made of: debian.sh programs.sh linux-image.sh initrd.sh guest-init fetch-guest.sh
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
. "$here/initrd.sh"
folder=$1 root=$1/root initrd=$1/initrd
guest=$("$here/fetch" guest)

debian_open "$folder" bookworm
debian_unpack "$root" fio
debian_close
copy_program "$root" usr/bin/fio "$initrd"
# The kernel unpacks archives that follow one another into one root.
pack_initrd "$guest/root" "$initrd" | cat "$guest/initrd.cpio" - > "$folder/initrd.cpio"
cp --sparse=always "$guest/vmlinux" "$folder/vmlinux"
rm -rf "$initrd" "$root"
