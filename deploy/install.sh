#!/usr/bin/env bash
# Installs what deploy/build.sh built into a folder that needs nothing of this machine but
# glibc: it can be copied to another Debian 12 or newer, or into a container's last stage.
#
#   bash deploy/install.sh [--preset PRESET] PREFIX
#
#   PRESET   cpu-release (default), or cuda-release: with what it takes to run on a GPU but the
#            driver, 2.5 GB more; deploy/setup.sh --cuda-run downloads that if need be
#
#   PREFIX/bin            quire-server, quire
#   PREFIX/lib/quire      torch/lib, nvidia/*/lib: LibTorch and the CUDA libraries that it loads
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

# Into the folder $1, as they lie in .deps: LibTorch for CPUs, and two CUDA libraries.
copy_cpu_libraries() {
  mkdir -p "$1/torch/lib" "$1/nvidia/cu13/lib"
  cp "$deps"/torch/lib/lib{c10.so,torch_cpu.so} "$deps"/torch/lib/libgomp*.so* "$1/torch/lib/"
  cp "$deps"/nvidia/cu13/lib/lib{cudart,cupti}.so.* "$1/nvidia/cu13/lib/"
}

# The same of .deps-cuda: all of it, since LibTorch's CUDA library does not load without it.
copy_cuda_libraries() {
  local folder
  for folder in "$deps"/torch/lib "$deps"/nvidia/*/lib; do
    mkdir -p "$1${folder#"$deps"}"
    cp -L "$folder"/*.so* "$1${folder#"$deps"}/"
  done
}

main() {
  local preset="cpu-release"
  case "${1:-}" in
    --help | -h) print_help && exit 0 ;;
    --preset)
      preset="${2:?--preset wants a name}"
      shift 2
      ;;
  esac
  case "${1:-}" in
    "" | -*) say "wants a folder; see --help" && exit 2 ;;
  esac
  local prefix lib deps copy_libraries=copy_cpu_libraries
  deps="$(readlink -f "$repo_dir/.deps")"
  if [[ "$preset" == cuda-* ]]; then
    bash "$deploy_dir/setup.sh" --cuda-run
    deps="$(readlink -f "$repo_dir/.deps-cuda")"
    copy_libraries=copy_cuda_libraries
  fi
  mkdir -p "$1"
  prefix="$(cd "$1" && pwd)"
  lib="$prefix/lib/quire"
  cmake --install "$repo_dir/build/$preset" --prefix "$prefix" --strip

  mkdir -p "$lib/system" "$prefix/share/quire/models"
  "$copy_libraries" "$lib"
  local program library
  for program in quire-server quire; do
    needed_libraries "$repo_dir/build/$preset/bin/$program"
  done | sort -u | while read -r library; do
    [[ "$library" == "$deps"/* ]] || cp -L "$library" "$lib/system/"
  done
  cp -rL "$repo_dir/models/quire-135m" "$prefix/share/quire/models/"
  say "installed in $prefix ($(du -sm "$prefix" | cut -f1) MB)"
}

main "$@"
