#!/usr/bin/env bash
# Sets the machine up, builds everything and runs all tests; ends with ctest's summary.
#
#   bash tests/run.sh [--preset PRESET] [CTEST OPTION...]
#
# PRESET         cpu-release (default), cpu-debug, cpu-asan, cpu-tsan or cuda-release
# CTEST OPTION   passed on, for example -R sampler or -L lint
#
# Every preset compiles the CUDA sources too, which needs deploy/setup.sh --cuda but no GPU;
# cuda-release needs --cuda-run, and without a GPU skips the tests that want one.
#
# Exit code: 0 all tests passed, else not 0. QUIRE_JOBS as in deploy/build.sh.
set -euo pipefail
# shellcheck source=../deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/common.sh"

# The build runs test binaries too, to list their tests, so this holds from the start.
set_sanitizer_options() {
  local dir="$repo_dir/tests/sanitizers"
  export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
  export LSAN_OPTIONS="suppressions=$dir/lsan.supp:print_suppressions=0:${LSAN_OPTIONS:-}"
  export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
  local tsan="suppressions=$dir/tsan.supp:ignore_noninstrumented_modules=1"
  export TSAN_OPTIONS="$tsan:second_deadlock_stack=1:${TSAN_OPTIONS:-}"
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
  # GCC 12's ThreadSanitizer cannot live with the address randomisation of newer kernels.
  if [[ "$preset" == cpu-tsan && "${QUIRE_FIXED_ADDRESSES:-}" != 1 ]]; then
    exec env QUIRE_FIXED_ADDRESSES=1 setarch "$(uname -m)" -R bash "$0" --preset "$preset" "$@"
  fi
  set_sanitizer_options
  local setup_option="--cuda"
  [[ "$preset" != cuda-* ]] || setup_option="--cuda-run"
  bash "$deploy_dir/setup.sh" "$setup_option"
  bash "$deploy_dir/build.sh" --preset "$preset"
  cd "$repo_dir"
  ctest --preset "$preset" -j 2 "$@"
}

main "$@"
