#!/usr/bin/env bash
# Installs what deploy/build.sh built into a folder that needs nothing of this machine but
# glibc: it can be copied to another Debian 12 or newer, or into a container's last stage.
#
#   bash deploy/install.sh PREFIX
#
#   PREFIX/bin            quire-server, quire
#   PREFIX/lib/quire      torch/lib, nvidia/cu13/lib: LibTorch and its two CUDA libraries
#   PREFIX/lib/quire/system   Debian's shared libraries that the programs use
#   PREFIX/share/quire    models/quire-135m, with its base weights
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Shared libraries of a program as paths, without glibc's own, which must be the host's.
needed_libraries() {
  ldd "$1" | awk '/=> \// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libutil)\.so\.[0-9]+$'
}

main() {
  case "${1:-}" in
    --help | -h) print_help && exit 0 ;;
    "" | -*) say "wants a folder; see --help" && exit 2 ;;
  esac
  mkdir -p "$1"
  local prefix lib deps
  prefix="$(cd "$1" && pwd)"
  lib="$prefix/lib/quire"
  deps="$(readlink -f "$repo_dir/.deps")"
  cmake --install "$repo_dir/build/cpu-release" --prefix "$prefix" --strip

  mkdir -p "$lib/torch/lib" "$lib/nvidia/cu13/lib" "$lib/system" "$prefix/share/quire/models"
  cp "$deps"/torch/lib/lib{c10.so,torch_cpu.so} "$deps"/torch/lib/libgomp*.so* "$lib/torch/lib/"
  cp "$deps"/nvidia/cu13/lib/lib{cudart,cupti}.so.* "$lib/nvidia/cu13/lib/"
  local program library
  for program in quire-server quire; do
    needed_libraries "$repo_dir/build/cpu-release/bin/$program"
  done | sort -u | while read -r library; do
    [[ "$library" == "$deps"/* ]] || cp -L "$library" "$lib/system/"
  done
  cp -rL "$repo_dir/models/quire-135m" "$prefix/share/quire/models/"
  say "installed in $prefix ($(du -sm "$prefix" | cut -f1) MB)"
}

main "$@"
