#!/usr/bin/env bash
# Makes a Debian 12 machine ready to build Quire; safe to run again, then it is quick.
#
#   bash deploy/setup.sh [--cuda | --cuda-run]
#
# 1. Debian packages (deploy/locks/debian-packages.txt), as root by apt-get. Not root: names the
#    command to run if any is missing.
# 2. Rust: the cargo on PATH if it is 1.85 or newer, else Debian's cargo-web and rustc-web.
# 3. Wheels (deploy/locks/wheels.txt) by pip with their hashes checked: LibTorch, two CUDA
#    libraries that it needs even on a CPU, and the base weights of models/quire-135m.
# 4. Unpacks them into a folder named by the locks' hash; .deps in the repository points to it,
#    and models/quire-135m to its base weights there.
#
# --cuda       what compiling and linking for NVIDIA GPUs takes besides; no GPU and no driver are
#              needed. Downloads deploy/locks/cuda-wheels.txt (nvcc and headers), and unpacks them
#              with LibTorch's CUDA libraries into a second folder, to which .deps-cuda points.
# --cuda-run   --cuda, and what running on a GPU takes but the driver: downloads
#              deploy/locks/cuda-run-wheels.txt (cuBLAS, cuDNN, ...) and unpacks them there too.
#
# QUIRE_CACHE_DIR  where wheels and unpacked files are kept
#                  (default: $XDG_CACHE_HOME/quire or ~/.cache/quire; about 1.3 GB, 2.1 with
#                  --cuda, 6.3 with --cuda-run; a prefix-* folder of older locks that no
#                  checkout's .deps or .deps-cuda points to may be deleted)
# Exit code: 0 ready; 1 something is missing or failed, said in the last line; 2 wrong usage.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cache_dir="${QUIRE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/quire}"
locks_dir="$deploy_dir/locks"
wheels_py="$deploy_dir/wheels.py"
min_rust="1.85"
work_dir=""    # once take_lock was called
cpu_prefix=""  # once set_up_cpu was called

missing_packages() {
  local wanted installed
  wanted="$(awk '/^[a-z]/ {print $1}' "$locks_dir/debian-packages.txt" | sort)"
  # shellcheck disable=SC2086,SC2016
  installed="$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' $wanted 2>/dev/null |
    awk '$1 == "ii" {print $2}' | sort -u || true)"
  comm -23 <(echo "$wanted") <(echo "$installed")
}

# The version of cargo on PATH, or nothing.
cargo_version() { cargo --version 2>/dev/null | awk '{print $2}' || true; }

rust_is_new_enough() {
  local version
  version="$(cargo_version)"
  [[ -n "$version" ]] && printf '%s\n%s\n' "$min_rust" "$version" | sort -CV
}

install_packages() {
  command -v apt-get >/dev/null || die "there is no apt-get here: Quire is built on Debian 12"
  local packages
  packages="$(missing_packages)"
  rust_is_new_enough || packages+=" cargo-web rustc-web"
  # shellcheck disable=SC2086
  packages="$(xargs <<<"$packages")"
  [[ -z "$packages" ]] && return
  if [[ "$(id -u)" != 0 ]]; then
    die "these Debian packages are missing and this is not root; run:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages"
  fi
  say "installing Debian packages: $packages"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2 || die "apt-get update failed: is there a network?"
  # --no-remove: another Rust or compiler that somebody chose is never taken away.
  # shellcheck disable=SC2086
  apt-get install -qy --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 \
    $packages >&2 || die "apt-get could not install: $packages"
  hash -r
  rust_is_new_enough || die "the cargo on PATH is '$(cargo_version)' at $(command -v cargo);" \
    "$min_rust or newer is needed: put Debian's in front with PATH=/usr/bin:\$PATH"
}

# The interpreter whose pip downloads: the one on PATH, else Debian's.
python_with_pip() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  die "no python3 with pip is here"
}

check_space() {  # check_space NEEDED_MB
  local free_mb
  free_mb="$(df -Pm "$cache_dir" | awk 'NR == 2 {print $4}')"
  if ((free_mb < $1)); then
    die "$cache_dir needs $1 MB more and its disk has $free_mb MB free;" \
      "free some, or set QUIRE_CACHE_DIR to a folder on another disk"
  fi
}

# Runs a command; without a terminal, where pip shows no bar, says every 10 s how far it is.
with_size_counter() {  # with_size_counter FOLDER TOTAL_MB COMMAND...
  local folder="$1" total_mb="$2" counter="" status=0
  shift 2
  if [[ ! -t 1 ]]; then
    # sleep outlives a kill of its shell; it must not hold the caller's pipe or the lock then.
    while sleep 10 >/dev/null 2>&1 9>&- && [[ -d "$folder" ]]; do
      say "  $(du -sm "$folder" 2>/dev/null | cut -f1) of $total_mb MB"
    done &
    counter=$!
  fi
  "$@" || status=$?
  [[ -z "$counter" ]] || { kill "$counter" && wait "$counter"; } 2>/dev/null || true
  return "$status"
}

pip_download() {  # pip_download PYTHON REQUIREMENTS FOLDER
  # The wheels are for LibTorch's own Python, whichever one runs pip here.
  TMPDIR="$3" "$1" -m pip download --require-hashes --no-deps --no-cache-dir --only-binary=:all: \
    --disable-pip-version-check --retries 3 --timeout 60 \
    --python-version 312 --implementation cp --abi cp312 --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_18_x86_64 --platform manylinux2014_x86_64 \
    --dest "$3/done" -r "$2" 2> >(tee "$3/errors" >&2)
}

explain_failed_download() {  # explain_failed_download NAME LOCK ERRORS
  if grep -q "DO NOT MATCH THE HASHES" "$3"; then
    die "$1: what was downloaded has another hash than deploy/locks/$2 says;" \
      "nothing of it was kept. A mirror or proxy changes files, or the lock is wrong"
  elif grep -q "No space left" "$3"; then
    die "$1: the disk of $cache_dir is full"
  fi
  die "$1: the download failed (pip's message is above); is there a network?" \
    "Run this script again: finished downloads are kept"
}

download_wheel() {  # download_wheel PYTHON NAME BYTES LOCK REQUIREMENT
  local part="$work_dir/download" total_mb=$(($3 / 1000000 + 1))
  rm -rf "$part" && mkdir -p "$part/done"
  echo "$5" >"$part/requirement.txt"
  say "downloading $2 ($total_mb MB)"
  with_size_counter "$part" "$total_mb" pip_download "$1" "$part/requirement.txt" "$part" >&2 ||
    explain_failed_download "$2" "$4" "$part/errors"
  mv "$part"/done/*.whl "$cache_dir/wheels/"
}

# One setup at a time in the cache; held until this script ends.
take_lock() {
  [[ -z "$work_dir" ]] || return 0
  exec 9>"$cache_dir/lock"
  flock -n 9 || { say "another setup is at work in $cache_dir; waiting for it" && flock 9; }
  mkdir -p "$cache_dir/wheels"
  rm -rf "$cache_dir"/setup.??????  # of runs that were killed: this one has the lock
  work_dir="$(mktemp -d "$cache_dir/setup.XXXXXX")"
  trap 'rm -rf "$work_dir"' EXIT
}

# Downloads what the cache lacks of a set of wheels (wheels.py has the sets) and unpacks them.
make_prefix() {  # make_prefix SET PREFIX [BASE]
  local python name bytes lock requirement
  python="$(python_with_pip)"
  "$python" "$wheels_py" missing "$1" "$locks_dir" "$cache_dir/wheels" >"$work_dir/missing" ||
    die "the wheels in $cache_dir/wheels could not be read"
  check_space "$("$python" "$wheels_py" space "$1" "$work_dir/missing")"
  while IFS=$'\t' read -r name bytes lock requirement; do
    download_wheel "$python" "$name" "$bytes" "$lock" "$requirement"
  done <"$work_dir/missing"
  say "unpacking into $2"
  "$python" "$wheels_py" unpack "$1" "$locks_dir" "$cache_dir/wheels" "$work_dir/$1" \
    "${@:3}" || die "the wheels could not be unpacked; the reason is above"
  # A new prefix appears whole or not at all; one that is there gets what it lacks.
  if [[ -d "$2" ]]; then
    cp -alfT "$work_dir/$1" "$2"
  else
    mv -T "$work_dir/$1" "$2"
  fi
}

# Whether the libraries and weights are there with the sizes that were unpacked.
prefix_is_whole() {  # prefix_is_whole SET PREFIX
  local manifest="$2/manifest-$1"
  [[ -f "$manifest" ]] || return 1
  (cd "$2" && cut -d' ' -f2 "$manifest" | xargs stat -c '%s %n' 2>/dev/null) | cmp -s - "$manifest"
}

ensure_prefix() {  # ensure_prefix SET PREFIX [BASE]
  prefix_is_whole "$1" "$2" && return
  take_lock
  prefix_is_whole "$1" "$2" || make_prefix "$@"
}

# The folder's name says which locks it was made from.
prefix_name() {  # prefix_name NAME FILE...
  echo "$1-$(cat "${@:2}" "$wheels_py" | sha256sum | cut -c1-16)"
}

point() {  # point LINK PREFIX; replaced in one step: builds may be running
  local link="$repo_dir/$1"
  [[ "$(readlink -f "$link")" == "$(readlink -f "$2")" ]] && return
  [[ ! -e "$link" || -L "$link" ]] || die "$link is in the way: this script makes a link there"
  ln -s "$2" "$link.$$" && mv -fT "$link.$$" "$link"
}

# Lays the base weights beside each base.json that names them, so that the model's folder is whole.
link_base_weights() {
  local reference file
  for reference in "$repo_dir"/models/*/base.json; do
    [[ -e "$reference" ]] || continue
    file="$(sed -n 's/.*"file": *"\([^"/]*\)".*/\1/p' "$reference")"
    ln -sfn "../../.deps/base/$file" "$(dirname "$reference")/$file"
  done
}

set_up_cpu() {
  cpu_prefix="$cache_dir/$(prefix_name prefix "$locks_dir"/{wheels.txt,base.sha256})"
  ensure_prefix cpu "$cpu_prefix"
  point .deps "$cpu_prefix"
  link_base_weights
}

set_up_cuda() {  # set_up_cuda SET: cuda, or cuda-run, which is added to it
  local prefix
  prefix="$cache_dir/$(prefix_name prefix-cuda "$locks_dir"/{,cuda-,cuda-run-}wheels.txt)"
  ensure_prefix cuda "$prefix" "$cpu_prefix"
  [[ "$1" == cuda ]] || ensure_prefix "$1" "$prefix"
  point .deps-cuda "$prefix"
}

main() {
  local cuda=""
  case "${1:-}" in
    "") ;;
    --help | -h) print_help && exit 0 ;;
    --cuda | --cuda-run) cuda="${1#--}" ;;
    *) say "unknown option '$1'; see --help" && exit 2 ;;
  esac
  [[ "$(uname -sm)" == "Linux x86_64" ]] ||
    die "this is $(uname -sm); Quire is built on Linux x86_64"
  grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release ||
    say "warning: this is not Debian 12 (bookworm), the only system that was tested"
  install_packages

  mkdir -p "$cache_dir" || die "the cache folder $cache_dir cannot be made; set QUIRE_CACHE_DIR"
  cache_dir="$(cd "$cache_dir" && pwd)"
  set_up_cpu
  [[ -z "$cuda" ]] || set_up_cuda "$cuda"
  say "ready (dependencies in $cpu_prefix${cuda:+ and $(readlink "$repo_dir/.deps-cuda")})"
}

main "$@"
