# Sourced. An initrd with busybox, modules, and guest-init as its /init.

# initrd_open ROOT INITRD ABI MODULES...: begins the folder INITRD with ROOT's busybox, these modules of ROOT, and all that those depend on.
initrd_open() {
  local root=$1 initrd=$2 abi=$3 busybox=$1/bin/busybox module name file
  shift 3
  "$busybox" depmod -b "$root" "$abi"
  mkdir -p "$initrd"/{bin,sbin,etc,proc,sys,dev,tmp,mnt,"lib/modules/$abi"}
  for module; do
    grep -E "/${module//_/[-_]}\.ko:" "$root/lib/modules/$abi/modules.dep" ||
      grep -qE "/${module//_/[-_]}\.ko$" "$root/lib/modules/$abi/modules.builtin" || { echo "Linux $abi has no module $module" >&2; return 1; }
  done | tr -d : | tr ' ' '\n' | sort -u | while read -r file; do
    (cd "$root/lib/modules/$abi" && cp --parents "$file" "$initrd/lib/modules/$abi/")
  done
  cp "$root/lib/modules/$abi"/modules.{builtin,order} "$initrd/lib/modules/$abi/"
  "$busybox" depmod -b "$initrd" "$abi"

  for name in $("$busybox" --list); do ln -sf busybox "$initrd/bin/$name"; done
  cp --remove-destination "$busybox" "$initrd/bin/busybox"
  # Here the kernel looks for it when a file system or a checksum needs a module.
  ln -s ../bin/busybox "$initrd/sbin/modprobe"
  cp "$here/guest-init" "$initrd/init"
  chmod +x "$initrd/init"
}

# pack_initrd ROOT INITRD: the folder as the archive that the kernel unpacks into its first root, to standard output. Archives may follow one another.
pack_initrd() { (cd "$2" && find . | "$1/bin/busybox" cpio -o -H newc -R 0:0); }
