# fetch-etcd.sh FOLDER: etcd's server, run as FOLDER/etcd, whatever C library this machine has. About 10 s, 10 MB down.
# Made of: debian.sh programs.sh
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/debian.sh"
. "$here/programs.sh"
debian_open "$1" bookworm
debian_unpack "$1/root" etcd-server
debian_close
own_loader "$1/tool" root
printf '#!/bin/sh\nexec "$(dirname "$(realpath "$0")")/tool" usr/bin/etcd "$@"\n' > "$1/etcd"
chmod +x "$1/etcd"
"$1/etcd" --version
