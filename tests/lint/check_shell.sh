#!/usr/bin/env bash
# check_shell.sh REPOSITORY: shellcheck finds nothing in our scripts. Exit code 77: skipped,
# because it is not here.
set -euo pipefail
cd "$1"
if ! command -v shellcheck >/dev/null; then
  echo "skipped: there is no shellcheck on PATH"
  exit 77
fi
find deploy tests .ci \( -name '*.sh' -o -path '.ci/run' \) -exec shellcheck -x -P SCRIPTDIR {} +
