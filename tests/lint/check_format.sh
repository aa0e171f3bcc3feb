#!/usr/bin/env bash
# check_format.sh REPOSITORY: all C++ is as .clang-format says. Exit code 77: skipped, because
# clang-format 14 (Debian 12's; others lay some lines out differently) is not here.
set -euo pipefail
cd "$1"
if ! clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
  echo "skipped: there is no clang-format 14 on PATH"
  exit 77
fi
wrong=()
while IFS= read -r -d '' file; do
  clang-format "$file" | cmp -s - "$file" || wrong+=("$file")
done < <(find core server client tests -regex '.*\.\(cc\|h\|cu\|cuh\)' -print0)
if ((${#wrong[@]})); then
  echo "not as .clang-format says; to mend it: clang-format -i ${wrong[*]}"
  exit 1
fi
