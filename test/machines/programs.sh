# Sourced. Programs of an unpacked Debian root, run or copied with its own loader and libraries, whatever C library this machine has.
# The ceph folder holds a library that others find by a path which only holds for an installed one.
program_libraries() { echo "$1/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu/ceph"; }

# run_program ROOT PROGRAM ARGS...: runs a program of ROOT.
run_program() {
  local root=$1 program=$2
  shift 2
  "$root/lib64/ld-linux-x86-64.so.2" --library-path "$(program_libraries "$root")" "$root/$program" "$@"
}

# own_loader FILE ROOT: FILE PROGRAM ARGS… runs a program of ROOT, a folder beside FILE.
own_loader() {
  cat > "$1" <<T
#!/bin/sh
r=\$(dirname "\$(realpath "\$0")")/$2 program=\$1
shift
exec "\$r/lib64/ld-linux-x86-64.so.2" --library-path "$(program_libraries '$r')" "\$r/\$program" "\$@"
T
  chmod +x "$1"
}

# copy_program ROOT PROGRAM TARGET: copies a program, its libraries and the loader to the same places under TARGET, the libraries to /lib alone.
copy_program() {
  local root=$1 program=$2 target=$3 library loader=lib64/ld-linux-x86-64.so.2
  mkdir -p "$target/$(dirname "$program")" "$target/lib64" "$target/lib/x86_64-linux-gnu"
  cp "$root/$program" "$target/$program"
  cp "$root/$loader" "$target/$loader"
  "$root/$loader" --library-path "$(program_libraries "$root")" --list "$root/$program" |
    sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | while read -r library; do cp "$library" "$target/lib/x86_64-linux-gnu/"; done
}

# wrap_programs ROOT LOADER FOLDER...: programs that start each other: each ELF program in these folders of ROOT becomes a script that starts it by the
# loader and the libraries of the root LOADER. Roots are given relative to each other (LOADER is . where they are one); both may be moved together.
wrap_programs() {
  local root=$1 loader=$2 folder program up
  shift 2
  for folder; do
    [ -d "$root/$folder" ] || { echo "$root has no folder $folder" >&2; return 1; }
    up=\${0%/*}/$(printf '%s' "$folder" | sed 's|[^/]*|..|g')/$loader
    for program in "$root/$folder"/*; do
      [ -f "$program" ] && [ ! -L "$program" ] && [ -x "$program" ] && is_elf "$program" || continue
      mv "$program" "$program.elf"
      cat > "$program" <<W
#!/bin/sh
exec "$up/lib64/ld-linux-x86-64.so.2" --library-path "$(program_libraries "$up")" --argv0 "\$0" "\${0%/*}/${program##*/}.elf" "\$@"
W
      chmod +x "$program"
    done
  done
}
is_elf() { [ "$(od -An -t x1 -N 4 "$1")" = ' 7f 45 4c 46' ]; }
