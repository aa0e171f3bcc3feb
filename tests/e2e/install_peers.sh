#!/usr/bin/env bash
# Installs the program that the end-to-end tests use if it is there: grpcurl, for reflection.
# For developers; without it those tests are skipped and say so.
#
#   bash tests/e2e/install_peers.sh [FOLDER]
#
# FOLDER   where to put it (default: ~/.local/bin); it must be on PATH for the tests
#
# Needs go. Exit code: 0 installed, else not 0.
set -euo pipefail

readonly GRPCURL_VERSION="v1.9.3"

main() {
  local folder="${1:-$HOME/.local/bin}"
  if ! command -v go > /dev/null; then
    echo "install_peers.sh: go is not installed; grpcurl is built from source" >&2
    exit 1
  fi
  mkdir -p "$folder"
  GOBIN="$(realpath "$folder")" \
    go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL_VERSION"
  echo "installed $folder/grpcurl"
  case ":$PATH:" in
    *":$folder:"*) ;;
    *) echo "put $folder on PATH for the tests" ;;
  esac
}

main "$@"
