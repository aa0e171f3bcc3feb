# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts use these
# Sourced by the scripts of this folder and by tests/run.sh: paths and messages.
deploy_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo_dir="$(dirname "$deploy_dir")"
script_name="$(basename "$0")"

say() { printf '%s: %s\n' "$script_name" "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# The comment block at a script's top is its help text.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# As many compile jobs as there are cores and 2 GB of memory each; QUIRE_JOBS overrides.
build_jobs() {
  local cores by_memory
  cores="$(nproc)"
  by_memory="$(awk '/^MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo)"
  local jobs=$((cores < by_memory ? cores : by_memory))
  echo "${QUIRE_JOBS:-$((jobs > 0 ? jobs : 1))}"
}
