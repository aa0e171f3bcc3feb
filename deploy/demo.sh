#!/usr/bin/env bash
# From a bare Debian 12 machine to a summary: sets up, builds, starts the server on a free port,
# has the client summarise a chapter of about 6,000 tokens, and stops the server again.
#
#   bash deploy/demo.sh [--keep] [--words N] [FILE]
#
# --keep      leave the server running and say how to go on and how to stop it
# --words N   length of the summary (default: 120)
# FILE        another text to summarise (default: the chapter in deploy/sample)
#
# Exit code: 0 the summary was made; else not 0, and the end of the server's log is shown.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

model="$repo_dir/models/quire-135m"
bin_dir="$repo_dir/build/cpu-release/bin"
document="$deploy_dir/sample/arrest-of-arsene-lupin.txt"
words=120
keep=""
server_pid=""
run_dir=""

parse_arguments() {
  while (($# > 0)); do
    case "$1" in
      --help | -h) print_help && exit 0 ;;
      --keep) keep=1 ;;
      --words)
        words="${2:?--words wants a number}"
        shift
        ;;
      -*) say "unknown option '$1'; see --help" && exit 2 ;;
      *) document="$(realpath -- "$1")" ;;
    esac
    shift
  done
  [[ -r "$document" ]] || die "there is no readable file $document"
}

stop_server() {
  kill -TERM "$server_pid" 2>/dev/null || return 0
  for _ in {1..100}; do
    kill -0 "$server_pid" 2>/dev/null || return 0
    sleep 0.1
  done
  say "the server did not stop within 10 s of SIGTERM; killing it"
  kill -KILL "$server_pid" 2>/dev/null || true
}

on_exit() {
  local status=$?
  trap - EXIT INT TERM
  [[ -z "$run_dir" ]] && exit "$status"
  if ((status != 0)) && [[ -s "$run_dir/server.log" ]]; then
    say "failed; the end of the server's log:"
    tail -n 20 "$run_dir/server.log" >&2
  fi
  if ((status != 0)) || [[ -z "$keep" ]]; then
    [[ -z "$server_pid" ]] || stop_server
    rm -rf "$run_dir"
  fi
  exit "$status"
}

# Sets server_pid, grpc_address and http_address once the server answers.
start_server() {
  # Its own session: with --keep it outlives this terminal.
  setsid "$bin_dir/quire-server" --model "$model" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 \
    --port-file "$run_dir/ports" </dev/null >"$run_dir/server.log" 2>&1 &
  server_pid=$!
  local start=$SECONDS
  until grep -qs '^http=' "$run_dir/ports"; do
    kill -0 "$server_pid" 2>/dev/null || die "the server ended before it was ready"
    ((SECONDS - start < 120)) || die "the server was not ready within 120 s"
    sleep 0.1
  done
  grpc_address="$(sed -n 's/^grpc=//p' "$run_dir/ports")"
  http_address="$(sed -n 's/^http=//p' "$run_dir/ports")"
  say "the server is ready at $grpc_address (gRPC) and $http_address (HTTP)"
}

show_counters() {
  say "its own count, from http://$http_address/metrics:"
  python3 -c 'import sys, urllib.request as request
print(request.urlopen(sys.argv[1], timeout=10).read().decode())' "http://$http_address/metrics" |
    grep -E '^quire_(prompt_tokens_total|generated_tokens_total|request_seconds_count)' |
    sed 's/^/  /' >&2
}

say_how_to_go_on() {
  local quire="${bin_dir#"$PWD"/}/quire" file="${document#"$PWD"/}"
  if [[ -z "$keep" ]]; then
    say "to ask it questions and to watch its savings in a browser, run again with --keep"
    return
  fi
  cat >&2 <<END
The server goes on (process $server_pid). Next, for example:
  $quire --server $grpc_address ask $file "Who is Miss Nelly?"
  $quire --server $grpc_address score $file
  $quire --server $grpc_address models
  $quire --server $grpc_address top
$run_dir/server.log is its log; this stops it: kill $server_pid
Watch what it saves, live in a browser: http://$http_address/
END
}

main() {
  parse_arguments "$@"
  trap on_exit EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  bash "$deploy_dir/build.sh" quire-server quire
  say "set up and built in $SECONDS s"
  run_dir="$(mktemp -d)"
  start_server
  say "summarising $(basename "$document") in about $words words"
  "$bin_dir/quire" --server "$grpc_address" summarize "$document" --words "$words"
  show_counters
  say_how_to_go_on
}

main "$@"
