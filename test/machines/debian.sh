# Sourced. A private view of Debian's archive: nothing is installed on this machine, files only land in $1, and no root is needed.
#   debian_open FOLDER SUITE...   opens it; the last suite is the one that packages are taken from where several have them. Then
#   debian_unpack ROOT PACKAGE... unpacks packages and all that they depend on;
#   debian_download PACKAGE...    leaves packages in the current folder;
#   debian_cache ARGS...          is apt-cache.
debian_open() {
  local dir=$1 suite mirror key=/usr/share/keyrings/debian-archive-keyring.gpg
  shift
  [ -r "$key" ] || { echo "$key is missing: install the package debian-archive-keyring" >&2; return 1; }
  # The machine's own mirror also where its apt has never been updated, hence --no-release-info.
  mirror=${DMALOG_DEBIAN_MIRROR:-$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' |
    grep -m1 '/debian/*$' || echo http://deb.debian.org/debian)}
  mkdir -p "$dir"/apt/{lists/partial,cache/archives/partial}
  for suite; do echo "deb [signed-by=$key] $mirror $suite main"; done > "$dir/apt/sources.list"
  : > "$dir/apt/status"
  DEBIAN_ARCHIVES=$dir/apt/cache/archives
  DEBIAN_OPTIONS=(-qq -oDir::Etc::sourcelist="$dir/apt/sources.list" -oDir::Etc::sourceparts=/dev/null -oDir::Etc::preferencesparts=/dev/null
    -oDir::Etc::preferences=/dev/null -oDir::State="$dir/apt" -oDir::State::lists="$dir/apt/lists" -oDir::Cache="$dir/apt/cache"
    -oDir::State::status="$dir/apt/status" -oDir::Log="$dir/apt" -oAPT::Sandbox::User="$(id -un)" -oDebug::NoLocking=1
    -oAcquire::Languages=none -oAcquire::Retries=3 -oAPT::Architecture=amd64 -oAPT::Default-Release="${*: -1}")
  apt-get "${DEBIAN_OPTIONS[@]}" -oAPT::Update::Error-Mode=any update
}
debian_cache() { apt-cache "${DEBIAN_OPTIONS[@]}" "$@"; }
debian_download() { apt-get "${DEBIAN_OPTIONS[@]}" download "$@"; }
debian_unpack() {
  local root=$1 deb
  shift
  rm -f "$DEBIAN_ARCHIVES"/*.deb
  apt-get "${DEBIAN_OPTIONS[@]}" -y --no-install-recommends --download-only install "$@"
  mkdir -p "$root"
  for deb in "$DEBIAN_ARCHIVES"/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" |
      tar -x -C "$root" --no-same-owner --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
  done
  # Debian 12's link to the loader leads to this machine's own, whose C library may be another.
  if [ -L "$root/lib64/ld-linux-x86-64.so.2" ]; then ln -sf ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$root/lib64/"; fi
}
debian_close() { rm -rf "${DEBIAN_ARCHIVES%/cache/archives}"; }
