#!/usr/bin/env bash
# Sets the machine up (deploy/setup.sh) and builds into build/PRESET.
#
#   bash deploy/build.sh [--preset PRESET] [TARGET...]
#
# PRESET   one of CMakePresets.json (default: cpu-release); cuda-release sets up with --cuda
# TARGET   what to build (default: everything); quire-server and quire are the product
#
# QUIRE_JOBS   compile jobs (default: one a core, fewer where memory is short)
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

main() {
  local preset="cpu-release"
  case "${1:-}" in
    --help | -h) print_help && exit 0 ;;
    --preset)
      preset="${2:?--preset wants a name}"
      shift 2
      ;;
    -*) say "unknown option '$1'; see --help" && exit 2 ;;
  esac
  local setup_options=()
  [[ "$preset" != cuda-* ]] || setup_options=(--cuda)
  bash "$deploy_dir/setup.sh" "${setup_options[@]}"
  cd "$repo_dir"
  # One cargo folder for all presets: the text library is the same in each.
  cmake --preset "$preset" -DQUIRE_CARGO_TARGET_DIR="$repo_dir/build/cargo"
  cmake --build --preset "$preset" -j "$(build_jobs)" ${1:+--target "$@"}
}

main "$@"
