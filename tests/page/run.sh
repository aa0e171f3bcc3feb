#!/usr/bin/env bash
# Opens the server's page in a headless Chromium, on a real server with a small model, and
# checks it: tests/page/page_test.mjs says what.
#
#   bash tests/page/run.sh [--no-install] [--screenshots FOLDER] [SERVER CLIENT]
#
# --no-install           installs nothing: exit code 77 and the reason if something is missing
# --screenshots FOLDER   also writes the pictures of docs/images there
# SERVER CLIENT          programs; default: those of build/cpu-release
#
# Installs Debian's chromium, nodejs and npm as root by apt-get, and puppeteer-core and
# axe-core by npm at the versions of package-lock.json, below ~/.cache/quire.
set -euo pipefail
# shellcheck source=../../deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/common.sh"
page_dir="$repo_dir/tests/page"

skip() {
  echo "skipped: $*; bash tests/page/run.sh installs it"
  exit 77
}

install_packages() {
  local packages=()
  command -v chromium >/dev/null || packages+=(chromium)
  command -v node >/dev/null || packages+=(nodejs)
  command -v npm >/dev/null || packages+=(npm)
  ((${#packages[@]})) || return 0
  "$install" || skip "there is no ${packages[0]} here"
  ((EUID == 0)) || die "not root: apt-get install ${packages[*]}"
  apt-get update -q >&2
  apt-get install -qy --no-install-recommends "${packages[@]}" >&2
}

install_modules() {
  [[ ! -d "$modules/node_modules/axe-core" ]] || return 0
  "$install" || skip "the node modules are not in $modules"
  mkdir -p "$modules"
  cp "$page_dir/package.json" "$page_dir/package-lock.json" "$modules"
  (cd "$modules" && npm ci --no-audit --no-fund --ignore-scripts >&2)
}

main() {
  install=true
  local shots="" programs=()
  while (($#)); do
    case "$1" in
      --help | -h) print_help && exit 0 ;;
      --no-install) install=false ;;
      --screenshots)
        shots="$(realpath -m "${2:?--screenshots wants a folder}")"
        shift
        ;;
      *) programs+=("$1") ;;
    esac
    shift
  done
  local lock
  lock="$(sha256sum "$page_dir/package-lock.json" | cut -c 1-16)"
  modules="${XDG_CACHE_HOME:-$HOME/.cache}/quire/page-test-$lock"
  install_packages
  install_modules
  local bin="$repo_dir/build/cpu-release/bin"
  QUIRE_MODULES="$modules/" QUIRE_SCREENSHOTS="$shots" GOMP_SPINCOUNT=1000 \
    node "$page_dir/page_test.mjs" \
    "${programs[0]:-$bin/quire-server}" "${programs[1]:-$bin/quire}"
  if [[ -n "$shots" ]] && command -v pngquant >/dev/null; then
    pngquant --force --ext .png 192 "$shots"/page-*.png
  fi
}

main "$@"
