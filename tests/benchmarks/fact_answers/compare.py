"""Compares the facts that two devices found: fact_answers' CSV files.

    compare.py CPU.csv GPU.csv [--allowed 1]

A line for each length and mode, and one for each question that only one of them answered.
Ends with 1 if the numbers of facts found differ by more than --allowed somewhere, or if the
files do not have the same questions.
"""

import argparse
import collections
import csv
import sys

CASE = ("model", "length", "mode")
QUESTION = CASE + ("part", "thing", "code")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {tuple(row[name] for name in QUESTION): row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--allowed", type=int, default=1)
    arguments = parser.parse_args()
    one, other = read(arguments.one), read(arguments.other)
    if one.keys() != other.keys():
        print(f"{len(one.keys() ^ other.keys())} questions are in one file only")
        return 1
    cases = collections.defaultdict(list)
    for key in one:
        cases[key[:len(CASE)]].append(key)
    worst = 0
    for case, keys in cases.items():
        found = [sum(int(rows[key]["found"]) for key in keys) for rows in (one, other)]
        same = sum(one[key]["answer"] == other[key]["answer"] for key in keys)
        worst = max(worst, abs(found[0] - found[1]))
        print(f"{' '.join(case)}: {found[0]} and {found[1]} of {len(keys)} found, "
              f"{same} answers are the same")
        for key in keys:
            if one[key]["found"] != other[key]["found"]:
                print(f"  part {key[3]}, {key[4]}, {key[5]}: "
                      f"{one[key]['answer']!r} and {other[key]['answer']!r}")
    return worst > arguments.allowed


if __name__ == "__main__":
    sys.exit(main())
