"""Checks every include of core/, server/ and client/ against layers.txt.

check_includes.py REPOSITORY [TABLE]

Prints "FILE:LINE: includes "HEADER", which layers.txt does not allow it" for each wrong edge.
Exit code: 0 none; 1 some; 2 the table is malformed.
"""

import os
import re
import sys

CHECKED = ("core", "server", "client")
INCLUDE = re.compile(r'\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def read_table(path):
    """{folder or file: [prefix, ...]}"""
    table = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            place, colon, prefixes = line.partition(":")
            if not colon or place in table:
                print(f"{path}:{number}: '{line}' is not 'PLACE: PREFIX...' of a new place")
                sys.exit(2)
            table[place] = prefixes.split()
    return table


def allowed_prefixes(table, path):
    """The prefixes of the file's own line and of the nearest folder with a line; or None."""
    folder = os.path.dirname(path)
    while folder and folder not in table:
        folder = os.path.dirname(folder)
    if not folder:
        return None
    return [folder + "/", *table[folder], *table.get(path, [])]


def source_files(repository):
    for top in CHECKED:
        for folder, _, names in os.walk(os.path.join(repository, top)):
            for name in sorted(names):
                if name.endswith((".cc", ".h", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, name), repository)


def wrong_includes(repository, table, path):
    known = tuple(prefix for prefixes in table.values() for prefix in prefixes)
    allowed = allowed_prefixes(table, path)
    if allowed is None:
        yield f"{path}:1: is in a folder that layers.txt does not have"
        return
    with open(os.path.join(repository, path), encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, angled = match.groups()
            header = quoted or angled
            if header.startswith(tuple(allowed)) or (angled and not angled.startswith(known)):
                continue
            yield f'{path}:{number}: includes "{header}", which layers.txt does not allow it'


def main():
    repository = sys.argv[1]
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "layers.txt")
    table = read_table(sys.argv[2] if len(sys.argv) > 2 else beside)
    files = list(source_files(repository))
    errors = [e for path in files for e in wrong_includes(repository, table, path)]
    print("\n".join(errors) or f"{len(files)} files: every include is in the table")
    sys.exit(1 if errors or not files else 0)


main()
