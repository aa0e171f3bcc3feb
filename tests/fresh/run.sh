#!/usr/bin/env bash
# Runs README's two commands on a bare Debian 12: a minimal system without git, curl, Python,
# make or a compiler, made by debootstrap and entered by chroot. Wants root and debootstrap.
#
#   bash tests/fresh/run.sh [--dir DIR] [--keep] [--only COMMAND]
#
# --dir DIR       make the system in DIR, which must not exist (default: a temporary folder)
# --keep          leave the system there afterwards (never its mounts)
# --only COMMAND  run this in the repository instead, as: --only "bash deploy/setup.sh"
#
# What is tested is the commit HEAD. How the machine reaches the network (mirror, date checks,
# proxy, certificates, name service) is taken from this machine's own settings.
# Ends with the seconds of each step. Exit code: 0 all passed; else not 0.
set -euo pipefail
# shellcheck source=../../deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/common.sh"

system=""
keep=""
commands=("bash deploy/demo.sh" "bash tests/run.sh")
times=()

parse_arguments() {
  while (($# > 0)); do
    case "$1" in
      --help | -h) print_help && exit 0 ;;
      --keep) keep=1 ;;
      --dir) system="${2:?--dir wants a folder}" && shift ;;
      --only) commands=("${2:?--only wants a command}") && shift ;;
      *) say "unknown argument '$1'; see --help" && exit 2 ;;
    esac
    shift
  done
  [[ "$(id -u)" == 0 ]] || die "debootstrap and chroot want root"
  command -v debootstrap >/dev/null || die "there is no debootstrap; apt-get install debootstrap"
  [[ -z "$system" || ! -e "$system" ]] || die "$system is there already"
}

# Everything mounted below the system, the deepest first.
mounts() { awk -v top="$system/" 'index($2, top) == 1 {print $2}' /proc/mounts | sort -r; }

clean_up() {
  local status=$? mount pid
  trap - EXIT INT TERM
  # What a failed command left running in there would hold the mounts.
  for pid in /proc/[0-9]*; do
    if [[ "$(readlink "$pid/root")" == "$system" ]]; then kill -KILL "${pid#/proc/}" || true; fi
  done 2>/dev/null
  while read -r mount; do
    umount "$mount" 2>/dev/null || umount --lazy "$mount" || true
  done < <(mounts)
  if [[ -n "$(mounts)" ]]; then
    say "still mounted, so $system is not removed: $(mounts | xargs)"
  elif [[ -z "$keep" ]]; then
    rm -rf --one-file-system "$system"
  else
    say "the system is left in $system"
  fi
  exit "$status"
}

step() {  # step NAME COMMAND...: runs the command, and remembers how long it took
  local name="$1" start=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  "$@"
  times+=("$(printf '%6d s  %s' $((SECONDS - start)) "$name")")
}

# The address that this machine's apt has Debian 12's packages from.
mirror() {
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' |
    head -n 1
}

make_system() {
  local address
  address="$(mirror)"
  [[ -n "$address" ]] || die "no apt source of Debian bookworm is set up on this machine"
  debootstrap --variant=minbase bookworm "$system" "$address" >"$system.log" 2>&1 ||
    { tail -n 20 "$system.log" && die "debootstrap failed"; }
  rm -f "$system.log"
}

# Apt's sources of Debian itself, and its settings of dates, proxies and retries.
copy_apt_settings() {
  local apt="$system/etc/apt" file
  rm -f "$apt/sources.list"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
    if grep -qs bookworm "$file" && grep -qs 'main' "$file"; then
      cp "$file" "$apt/${file#/etc/apt/}"
    fi
  done
  apt-config dump | grep -E '^Acquire::(Check-|https?::|Retries|ForceIPv)' \
    >"$apt/apt.conf.d/90host" || true
}

copy_host_settings() {
  copy_apt_settings
  cp -L /etc/resolv.conf /etc/hosts "$system/etc/"
  local file
  for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.cargo/config.toml"; do
    [[ ! -f "$file" ]] || install -D "$file" "$system${file/#$HOME//root}"
  done
  mount --bind /proc "$system/proc"
  mount --bind /dev "$system/dev"
}

# A command in the system, with this machine's proxies and, where it names them, certificates.
inside() {
  local bundle="/etc/ssl/certs/ca-certificates.crt" name settings=()
  for name in SSL_CERT_FILE PIP_CERT CARGO_HTTP_CAINFO; do
    [[ -z "${!name:-}" ]] || settings+=("$name=$bundle")
  done
  for name in http_proxy https_proxy no_proxy PIP_INDEX_URL QUIRE_JOBS CI; do
    [[ -z "${!name:-}" ]] || settings+=("$name=${!name}")
  done
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    "${settings[@]}" chroot "$system" "$@"
}

# The host may trust a certificate that Debian does not know; its whole bundle comes along.
copy_certificates() {
  inside apt-get update -q
  inside env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qy --no-install-recommends ca-certificates
  local bundle="${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
  [[ ! -f "$bundle" ]] || cp -L "$bundle" "$system/etc/ssl/certs/ca-certificates.crt"
}

copy_repository() {
  mkdir "$system/root/quire"
  git -C "$repo_dir" archive HEAD | tar -x -C "$system/root/quire"
}

main() {
  parse_arguments "$@"
  system="${system:-$(mktemp -d -u)}"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$system"
  system="$(cd "$system" && pwd -P)"
  step "debootstrap (minbase, bookworm)" make_system
  step "this machine's network settings" copy_host_settings
  step "certificates" copy_certificates
  step "repository ($(git -C "$repo_dir" rev-parse --short HEAD))" copy_repository
  local command
  for command in "${commands[@]}"; do
    step "$command" inside bash -c "cd /root/quire && $command"
  done
  printf '\n=== passed; seconds of each step\n'
  printf '%s\n' "${times[@]}"
}

main "$@"
