#!/usr/bin/env bash
# Runs README's two commands on a bare Debian 12: a minimal system without git, curl, Python,
# make or a compiler, made by debootstrap and entered by chroot. Then does what the image's last
# stage does (deploy/Dockerfile): installs, carries the result to a second bare system, and
# starts the server there without root. Wants root and debootstrap.
#
#   bash tests/fresh/run.sh [--dir DIR] [--keep] [--only COMMAND]
#
# --dir DIR       make the systems in DIR, which must not exist (default: a temporary folder)
# --keep          leave the systems there afterwards (never their mounts)
# --only COMMAND  run just this in the repository, as: --only "bash deploy/setup.sh"
#
# What is tested is the commit HEAD. How the machine reaches the network (mirror, date checks,
# proxy, certificates, name service) is taken from this machine's own settings.
# Ends with the seconds of each step. Exit code: 0 all passed; else not 0.
set -euo pipefail
# shellcheck source=../../deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/common.sh"

top=""
keep=""
only=""
commands=("bash deploy/demo.sh" "bash tests/run.sh" "bash deploy/install.sh /opt/quire")
times=()

parse_arguments() {
  while (($# > 0)); do
    case "$1" in
      --help | -h) print_help && exit 0 ;;
      --keep) keep=1 ;;
      --dir) top="${2:?--dir wants a folder}" && shift ;;
      --only) only="${2:?--only wants a command}" && commands=("$only") && shift ;;
      *) say "unknown argument '$1'; see --help" && exit 2 ;;
    esac
    shift
  done
  [[ "$(id -u)" == 0 ]] || die "debootstrap and chroot want root"
  command -v debootstrap >/dev/null || die "there is no debootstrap; apt-get install debootstrap"
  [[ -z "$top" || ! -e "$top" ]] || die "$top is there already"
}

# Everything mounted in the systems, the deepest first.
mounts() { awk -v top="$top/" 'index($2, top) == 1 {print $2}' /proc/mounts | sort -r; }

clean_up() {
  local status=$? mount pid
  trap - EXIT INT TERM
  # What a failed command left running in there would hold the mounts.
  for pid in /proc/[0-9]*; do
    if [[ "$(readlink "$pid/root")" == "$top"/* ]]; then kill -KILL "${pid#/proc/}" || true; fi
  done 2>/dev/null
  while read -r mount; do
    umount "$mount" 2>/dev/null || umount --lazy "$mount" || true
  done < <(mounts)
  if [[ -n "$(mounts)" ]]; then
    say "still mounted, so $top is not removed: $(mounts | xargs)"
  elif [[ -z "$keep" ]]; then
    rm -rf --one-file-system "$top"
  else
    say "the systems are left in $top"
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
  debootstrap --variant=minbase bookworm "$system" "$address" >"$top/debootstrap.log" 2>&1 ||
    { tail -n 20 "$top/debootstrap.log" && die "debootstrap failed"; }
  cp -a "$system" "$image"
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
  local folder
  for folder in "$system" "$image"; do
    mount --bind /proc "$folder/proc"
    # Without it glibc sets errno when a thread's first allocation counts the processors, and gRPC,
    # which looks at errno some allocations after connect(), takes a connection for failed.
    mount --bind /sys "$folder/sys"
    mount --bind /dev "$folder/dev"
    mount --bind /dev/pts "$folder/dev/pts"
  done
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
  mkdir "$system/srv/quire"
  git -C "$repo_dir" archive HEAD | tar -x -C "$system/srv/quire"
}

# The image's command, health check and stop signal; on free ports, which all systems share.
try_image() {
  local server address
  local in_image=(env -i PATH=/opt/quire/bin:/usr/sbin:/usr/bin:/bin
    chroot --userspec=10001:10001 "$image")
  cp -a "$system/opt/quire" "$image/opt/"
  "${in_image[@]}" quire-server --model /opt/quire/share/quire/models/quire-135m \
    --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --port-file /tmp/ports &
  server=$!
  for _ in {1..120}; do
    [[ ! -s "$image/tmp/ports" ]] || break
    kill -0 "$server" || die "the server ended before it was ready"
    sleep 1
  done
  address="$(sed -n 's/^grpc=//p' "$image/tmp/ports")"
  "${in_image[@]}" quire --server "$address" models
  kill -TERM "$server"
  wait "$server" || die "the server ended with $? on SIGTERM"
}

main() {
  parse_arguments "$@"
  top="${top:-$(mktemp -d -u)}"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$top"
  top="$(cd "$top" && pwd -P)"
  system="$top/system"
  image="$top/image"
  step "debootstrap (minbase, bookworm)" make_system
  step "this machine's network settings" copy_host_settings
  step "certificates" copy_certificates
  step "repository ($(git -C "$repo_dir" rev-parse --short HEAD))" copy_repository
  local command
  for command in "${commands[@]}"; do
    step "$command" inside bash -c "cd /srv/quire && $command"
  done
  [[ -n "$only" ]] || step "the image's last stage, without root" try_image
  printf '\n=== passed; seconds of each step\n'
  printf '%s\n' "${times[@]}"
}

main "$@"
