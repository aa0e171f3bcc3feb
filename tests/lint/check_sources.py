"""Checks what no compiler does: sizes, left-over marks and paths of one machine.

check_sources.py REPOSITORY

In our sources (not data, lock files or what a build makes): files of at most 500 lines, C++
functions of at most 70, lines of at most 100 columns, no marks of unfinished work, no path of
one person's machine and no address of a package registry, which is the machine's business.
Exit code: 0 clean; 1 not, each place printed as "FILE:LINE: what".
"""

import os
import re
import sys

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100
SKIPPED_FOLDERS = {".git", ".deps", ".cache", "build", "target", "__pycache__"}
CPP = (".cc", ".h", ".cu", ".cuh")
CODE = (*CPP, ".rs", ".py", ".sh", ".proto", ".js", ".cmake", "CMakeLists.txt", "Dockerfile")
NARROW = (*CPP, ".py", ".sh")
TEXT = (*CODE, ".md", ".yaml", ".yml", ".json", ".toml", ".txt", ".supp")

# Written so that this file does not match itself.
FORBIDDEN = (
    (re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b"), CODE, "a mark of unfinished work"),
    (re.compile(r"(^|[^\w.])/(work|root|home/\w+|Users)/"), TEXT, "a path of one machine"),
    (
        re.compile(r"\b(pypi\.org|pythonhosted\.org|(static|index)\.crates\.io|npmjs\.org"
                   r"|proxy\.golang\.org|deb\.debian\.org)\b"),
        TEXT,
        "the address of a package registry",
    ),
)  # fmt: skip
FUNCTION_START = re.compile(r"^[A-Za-z_~].*[)\w]\s*\{$|^[A-Za-z_~][^;=]*\($|^[A-Za-z_~][^;=]*,$")
NOT_A_FUNCTION = re.compile(
    r"^(namespace|class|struct|enum|union|extern|template|#|typedef)\b|^INSTANTIATE_|="
)


def source_files(repository):
    for folder, folders, names in os.walk(repository):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        # A model's files come from its training, a golden file from its script.
        if os.path.relpath(folder, repository).startswith(("models/", "tests/golden/")):
            continue
        for name in sorted(names):
            if name.endswith(TEXT) and not name.endswith(".lock"):
                yield os.path.relpath(os.path.join(folder, name), repository)


def long_functions(lines):
    """(line, length) of functions over the limit; as clang-format lays them out: a definition
    outside of classes starts in column 0 and its closing brace stands there alone."""
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and FUNCTION_START.match(line) and not NOT_A_FUNCTION.match(line):
            start = number
        elif start is not None and line.startswith("}"):
            if number - start + 1 > MAX_FUNCTION_LINES:
                yield start, number - start + 1
            start = None
        elif start is not None and line.endswith(";") and not line.startswith(" "):
            start = None


def errors_of(path, lines):
    if path.endswith(CODE) and len(lines) > MAX_FILE_LINES:
        yield f"{path}:1: has {len(lines)} lines; at most {MAX_FILE_LINES} are allowed"
    if path.endswith(CPP):
        for number, length in long_functions(lines):
            yield f"{path}:{number}: a function of {length} lines; at most {MAX_FUNCTION_LINES}"
    for number, line in enumerate(lines, 1):
        if path.endswith(NARROW) and len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns; at most {MAX_COLUMNS} are allowed"
        for pattern, endings, what in FORBIDDEN:
            if path.endswith(endings) and pattern.search(line):
                yield f"{path}:{number}: {what}: {line.strip()[:80]}"


def main():
    repository = sys.argv[1]
    errors, count = [], 0
    for path in source_files(repository):
        with open(os.path.join(repository, path), encoding="utf-8") as file:
            errors += errors_of(path, file.read().splitlines())
        count += 1
    print("\n".join(errors) or f"{count} files are clean")
    sys.exit(1 if errors or not count else 0)


main()
