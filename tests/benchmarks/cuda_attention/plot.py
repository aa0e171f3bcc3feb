"""Attention's time against length on a GPU, from the tables of cuda_attention and others.

plot.py decode CSV --out FILE.svg [--batches N...]
plot.py prefill CSV [--flex CSV] --out FILE.svg      flex_peer.py's table beside it
plot.py prompts CSV [--model NAME] --out FILE.svg    cuda_step's: attention of whole prompts;
                                                     the last row of each length counts

Needs matplotlib.
"""

import argparse
import csv
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DECODE = {
    "decode_flash": ("LibTorch, flash attention", "#b0b0b0"),
    "decode_cudnn": ("cuDNN, contiguous cache", "#606060"),
    "decode_own": ("own, paged cache", "#1f77b4"),
    "decode_refined": ("refined, about 450 far keys a head", "#d62728"),
}
PREFILL = {
    "prefill_cudnn": ("cuDNN, dense", "#606060"),
    "prefill_refined": ("refined, about 1,450 far columns a tile", "#d62728"),
    "flex_dense": ("FlexAttention, dense", "#b0b0b0"),
    "flex_sparse": ("FlexAttention, 1,792 columns that are given", "#9467bd"),
}
PROMPTS = {
    "dense": ("dense (cuDNN in chunks)", "#606060"),
    "faithful": ("faithful (plain path)", "#2ca02c"),
    "refined": ("refined", "#d62728"),
}


def rows(path):
    with open(path, encoding="utf-8") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


def of_shape(path, names, shape, batch):
    """{kernel: {length: microseconds}}; of refined decode the smaller share of keys, of refined
    prefill the number of columns nearest to 1,450."""
    times, best = {}, {}
    for row in rows(path):
        match = re.fullmatch(rf"{shape} L(\d+) B{batch}", row["shape"])
        columns = re.search(r"_(\d+)_columns$", row["kernel"])
        kernel = re.sub(r"_(expanded|[\d.]+%|\d+_columns)$", "", row["kernel"])
        if not match or kernel not in names:
            continue
        length, value = int(match.group(1)), float(row["median_us"])
        rank = abs(int(columns.group(1)) - 1450) if columns else value
        if rank <= best.get((kernel, length), rank):
            best[kernel, length] = rank
            times.setdefault(kernel, {})[length] = value
    return times


def draw(axis, times, names, scale):
    for kernel in [name for name in names if name in times]:
        label, color = names[kernel]
        lengths = sorted(times[kernel])
        axis.plot(lengths, [times[kernel][n] * scale for n in lengths], marker="o", markersize=4,
                  color=color, label=label)
    ticks = sorted({n for by_length in times.values() for n in by_length})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ticks, [f"{n // 1024}K" for n in ticks])
    axis.grid(alpha=0.3)


def decode(options):
    figure, axes = plt.subplots(1, len(options.batches), figsize=(9, 3.6), sharey=True)
    for axis, batch in zip(axes, options.batches):
        draw(axis, of_shape(options.csv, DECODE, "H32 G8 D128", batch), DECODE, 1)
        axis.set_title(f"{batch} sequence{'s' if batch > 1 else ''}")
        axis.set_xlabel("tokens in the cache")
    axes[0].set_ylabel("microseconds a layer")
    axes[0].legend(fontsize=8)
    return figure, "Decode attention on one H200, H = 32, G = 8, d = 128, bf16"


def prefill(options):
    figure, axis = plt.subplots(figsize=(6, 4))
    times = of_shape(options.csv, PREFILL, "H32 G8 D128", 1)
    if options.flex:
        times.update(of_shape(options.flex, PREFILL, "H32 G8 D128", 1))
    draw(axis, times, PREFILL, 1e-3)
    axis.set_xlabel("tokens of the prompt")
    axis.set_ylabel("milliseconds a layer")
    axis.legend(fontsize=8)
    return figure, "Causal attention of a prompt on one H200, H = 32, G = 8, d = 128, bf16"


def prompts(options):
    figure, axis = plt.subplots(figsize=(6, 4))
    times = {}
    for row in rows(options.csv):
        if row["what"] == "first_token" and row["model"] == options.model:
            times.setdefault(row["mode"], {})[int(row["length"])] = float(row["attention_ms"])
    draw(axis, times, PROMPTS, 1)
    axis.set_xlabel("tokens of the prompt")
    axis.set_ylabel("milliseconds, all layers")
    axis.legend(fontsize=8)
    return figure, f"Attention of a prompt in {options.model}'s shape on one H200, in chunks"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["decode", "prefill", "prompts"])
    parser.add_argument("csv")
    parser.add_argument("--flex")
    parser.add_argument("--model", default="quire-135m")
    parser.add_argument("--out", required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    figure, title = {"decode": decode, "prefill": prefill, "prompts": prompts}[options.what](
        options)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


main()
