# Sourced. Kernel modules built for Debian's Linux with Debian's headers and the part compiler; nothing of it needs a compiler on this machine.

# linux_headers ROOT ABI: unpacks the headers of a kernel, and the programs that build modules with them, into ROOT.
linux_headers() {
  local root=$1 abi=$2 compiler deb
  mkdir -p "$root/headers"
  (cd "$root/headers" && debian_download "linux-headers-$abi" \
    $(debian_cache depends "linux-headers-$abi" | sed -n 's/.*Depends: \(linux-\(headers\|kbuild\)-.*\)/\1/p'))
  for deb in "$root/headers"/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner; done
  rm -r "$root/headers"
  compiler=$("$here/fetch" compiler)
  ln -s "$compiler/root" "$root/compiler"
  wrap_programs "$root" compiler $(cd "$root" && echo usr/lib/linux-kbuild-*/{scripts,scripts/basic,scripts/mod,tools/objtool})
  # The package's own Makefile names the place where it would be installed.
  echo "include $(echo "$root"/usr/src/linux-headers-*-common)/Makefile" > "$root/usr/src/linux-headers-$abi/Makefile"
}

# build_modules ROOT ABI SOURCES: makes the modules of the Kbuild file in SOURCES, and puts them among those of ROOT's kernel.
build_modules() {
  local root=$1 abi=$2 sources=$3 target=$1/lib/modules/$2/updates
  PATH=$root/compiler/usr/bin:$PATH make -j"$(nproc)" -C "$root/usr/src/linux-headers-$abi" M="$sources" CONFIG_DEBUG_INFO_BTF_MODULES= modules
  PATH=$root/compiler/usr/bin:$PATH strip --strip-debug "$sources"/*.ko
  mkdir -p "$target"
  cp "$sources"/*.ko "$target/"
}
