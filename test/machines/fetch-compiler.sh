# fetch-compiler.sh FOLDER: what kernel modules are built with: gcc-12, binutils and make of Debian 12, in FOLDER/root. About 15 s, 60 MB down.
# With FOLDER/root/usr/bin first in PATH they run through their own loader, whatever C library this machine has.
# Made of: debian.sh programs.sh
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
root=$1/root

debian_open "$1" bookworm
# libelf1 is for objtool, which comes with the kernel's headers.
debian_unpack "$root" gcc-12 make libelf1
debian_close
# The two largest programs, which no module needs.
rm "$root"/usr/bin/*lto-dump* "$root"/usr/lib/gcc/x86_64-linux-gnu/12/lto1
wrap_programs "$root" . usr/bin usr/lib/gcc/x86_64-linux-gnu/12
"$root/usr/bin/gcc-12" --version
