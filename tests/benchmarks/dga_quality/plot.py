"""Cost against quality of what dga_quality wrote, one curve a method, as SVG or PNG.

    plot.py --out FILE [--cost columns|macs|time] CSV [CSV ...]

Needs matplotlib (requirements.txt). A panel for each model, length and phase; lower left is
better. The grey line is the share of dense cost that buys nothing.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

import rows as data  # noqa: E402

COSTS = {
    "columns": ("keys read, share of dense", lambda row: row["columns"]),
    "macs": ("multiply-adds with every overhead, share of dense", lambda row: row["all_macs"]),
    "time": ("attention time with every overhead, share of dense",
             lambda row: 1 / row["attention_speedup"]),
}
TITLES = {"refined": "refined", "refined,tail=means": "refined, group means",
          "faithful": "as published", "faithful,whole=1": "as published, whole prompt"}


def knob(setting):
    for part in reversed(setting.split(",")):
        if part.startswith(("eps=", "gamma=", "m=")):
            return part
    return ""


def draw(axes, group, cost):
    curves = {}
    for row in group:
        if row["kl"] > 0:
            curves.setdefault(row["curve"], []).append(row)
    for curve, points in sorted(curves.items()):
        points.sort(key=cost)
        x, y = [cost(row) for row in points], [row["kl"] for row in points]
        axes.plot(x, y, marker="o", label=TITLES.get(curve, curve))
        for row in points:
            axes.annotate(knob(row["setting"]), (cost(row), row["kl"]), fontsize=6,
                          xytext=(3, 3), textcoords="offset points")
    axes.axvline(1, color="grey", linewidth=.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="both", linewidth=.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("csv", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--cost", choices=COSTS, default="columns")
    args = parser.parse_args()
    label, cost = COSTS[args.cost]
    panels = list(data.panels(data.read(args.csv)))
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure, grid = pyplot.subplots(down, across, squeeze=False,
                                   figsize=(4.6 * across, 3.8 * down), layout="constrained")
    for axes in grid.flat[len(panels):]:
        axes.remove()
    for axes, ((model, length, phase), group) in zip(grid.flat, panels):
        draw(axes, group, cost)
        axes.set_title(f"{model}, {length:,.0f} tokens, {phase}", fontsize=10)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("KL to dense, nats", fontsize=8)
    grid.flat[0].legend(fontsize=8)
    # Without a date the same numbers give the same file.
    figure.savefig(args.out, metadata={"Date": None} if args.out.endswith(".svg") else None)


main()
