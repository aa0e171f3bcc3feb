"""Reads what dga_quality --csv wrote: rows with numbers as floats, and means over prompts."""

import csv
import itertools

NAMES = ("model", "text", "phase", "setting", "curve")


def read(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            rows += [{name: value if name in NAMES else float(value)
                      for name, value in row.items()} for row in csv.DictReader(file)]
    return rows


def means(rows, *keys):
    """One row for all with the same keys: means, and sums of facts asked and found."""
    result = {}
    for row in rows:
        result.setdefault(tuple(row[key] for key in keys), []).append(row)
    for group in result.values():
        mean = dict(group[0])
        for name in mean:
            if name not in NAMES:
                total = sum(row[name] for row in group)
                summed = name in ("asked", "found", "dense_found", "positions")
                mean[name] = total if summed else total / len(group)
        mean["prompts"] = len(group)
        yield mean


def panels(rows):
    """(model, length, phase) with the means of its settings, in order."""
    def key(row):
        return row["model"], row["length"], row["phase"]

    rows = list(means(rows, "model", "length", "phase", "setting"))
    rows.sort(key=lambda row: (row["phase"] != "prefill", row["model"], row["length"]))
    for name, group in itertools.groupby(rows, key):
        yield name, list(group)
