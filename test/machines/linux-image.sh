# Sourced. Debian's Linux, unpacked for a guest.

# newest_linux: the name of the newest kernel in the archive that is open (see debian.sh): 6.1.0-50-amd64.
newest_linux() { debian_cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-\(6[^ ]*\)$/\1/p' | head -1; }

# unpack_linux FOLDER ROOT ABI MODULES...: unpacks a kernel into ROOT, with the modules in these folders of its own, and leaves its ELF image in
# FOLDER/vmlinux: it boots in 2.3 s instead of 5.9 without KVM. ROOT holds xz-utils, and zstd for kernels that are packed with it.
unpack_linux() {
  local folder=$1 root=$2 abi=$3 module
  shift 3
  (cd "$folder" && debian_download "linux-image-$abi")
  dpkg-deb --fsys-tarfile "$folder"/linux-image-*.deb | tar -x -C "$root" --no-same-owner --wildcards \
    './boot/vmlinuz-*' '*/modules.*' "${@/#/*/kernel/}"
  rm "$folder"/linux-image-*.deb
  # busybox's depmod knows modules by the end of their names.
  find "$root/lib/modules/$abi" -name '*.ko.xz' | while read -r module; do run_program "$root" usr/bin/xz -d "$module"; done
  unpack_vmlinux "$root" "$root/boot/vmlinuz-$abi" "$folder/vmlinux"
}

# unpack_vmlinux ROOT VMLINUZ VMLINUX: the kernel's ELF image lies compressed in vmlinuz: the setup header says where (Linux x86 boot protocol 2.08:
# setup_sects 0x1f1, payload_offset 0x248, payload_length 0x24c; the last four bytes are the unpacked size, not the compressor's).
unpack_vmlinux() {
  local root=$1 vmlinuz=$2 vmlinux=$3 start unpack
  number() { od -An -v -t "u$2" -j "$1" -N "$2" "$vmlinuz" | tr -d ' '; }
  start=$((($(number 0x1f1 1) + 1) * 512 + $(number 0x248 4)))
  case $(od -An -t x1 -j "$start" -N 4 "$vmlinuz") in
    ' fd 37 7a 58') unpack='xz -dc --single-stream' ;;
    ' 28 b5 2f fd') unpack='zstd -dcq' ;;
    *) echo "$vmlinuz is compressed by something new" >&2; return 1 ;;
  esac
  dd if="$vmlinuz" iflag=skip_bytes,count_bytes skip="$start" count=$(($(number 0x24c 4) - 4)) bs=1M status=none |
    run_program "$root" usr/bin/$unpack > "$vmlinux"
}
