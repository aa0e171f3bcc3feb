"""Who ran when: draws what `schedule_sim --replay TRACE --timeline CSV` wrote.

    timeline.py CSV --out FILE [--from SECONDS] [--to SECONDS]

Needs matplotlib (../dga_quality/requirements.txt). A line a request, in the order of arrival:
grey while it waits, the colour of its tenant while its prompt is read (dark) and its answer
written (light).
"""

import argparse
import csv

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COLOURS = ["tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown"]


def read(path):
    """-> {request: (tenant, [(begin, end, state)])}; a step lasts until the next one."""
    steps = {}
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            steps.setdefault(float(row["seconds"]), []).append(row)
    times = sorted(steps)
    requests = {}
    for begin, end in zip(times, times[1:]):
        for row in steps[begin]:
            tenant, spans = requests.setdefault(int(row["request"]), (int(row["tenant"]), []))
            if spans and spans[-1][2] == row["state"] and spans[-1][1] == begin:
                spans[-1] = (spans[-1][0], end, row["state"])
            else:
                spans.append((begin, end, row["state"]))
    return requests


def draw(axes, requests):
    looks = {"waiting": ("lightgrey", 1), "paused": ("dimgrey", 1)}
    for line, (_, (tenant, spans)) in enumerate(sorted(requests.items())):
        colour = COLOURS[tenant % len(COLOURS)]
        for begin, end, state in spans:
            face, alpha = looks.get(state, (colour, 1 if state == "prefill" else 0.4))
            axes.broken_barh([(begin, end - begin)], (line - 0.4, 0.8), facecolors=face,
                             alpha=alpha, linewidth=0)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_ylabel("request, in order of arrival")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv")
    parser.add_argument("--out", required=True)
    parser.add_argument("--from", dest="first", type=float)
    parser.add_argument("--to", dest="last", type=float)
    arguments = parser.parse_args()
    figure, axes = pyplot.subplots(figsize=(11, 5))
    draw(axes, read(arguments.csv))
    axes.set_xlim(arguments.first, arguments.last)
    axes.set_title("dark: reading the prompt, light: writing the answer, grey: waiting; "
                   "one colour a tenant")
    figure.tight_layout()
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
