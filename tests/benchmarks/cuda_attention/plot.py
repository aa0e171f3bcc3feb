"""Decode time against length, from cuda_attention's CSV.

plot.py CSV --out FILE.svg [--batches N...]    needs matplotlib
"""

import argparse
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

KERNELS = {
    "decode_flash": ("LibTorch, flash attention", "#b0b0b0"),
    "decode_cudnn": ("cuDNN, contiguous cache", "#606060"),
    "decode_own": ("own, paged cache", "#1f77b4"),
    "decode_refined": ("refined, about 450 far keys a head", "#d62728"),
}


def read(path, shape, batch):
    """{kernel: {length: microseconds}}; of refined the smaller share of keys."""
    times = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(("#", "kernel")):
                continue
            kernel, name, microseconds = line.split(",")[:3]
            match = re.fullmatch(rf"{shape} L(\d+) B{batch}", name)
            kernel = re.sub(r"_[\d.]+%$", "", kernel)
            if match and kernel in KERNELS:
                of_kernel = times.setdefault(kernel, {})
                length, value = int(match.group(1)), float(microseconds)
                of_kernel[length] = min(value, of_kernel.get(length, value))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv")
    parser.add_argument("--out", required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    figure, axes = plt.subplots(1, len(options.batches), figsize=(9, 3.6), sharey=True)
    for axis, batch in zip(axes, options.batches):
        for kernel, by_length in read(options.csv, "H32 G8 D128", batch).items():
            label, color = KERNELS[kernel]
            lengths = sorted(by_length)
            axis.plot(
                lengths,
                [by_length[n] for n in lengths],
                marker="o",
                markersize=4,
                color=color,
                label=label,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [f"{n // 1024}K" for n in lengths])
        axis.set_title(f"{batch} sequence{'s' if batch > 1 else ''}")
        axis.set_xlabel("tokens in the cache")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("microseconds a layer")
    axes[0].legend(fontsize=8)
    figure.suptitle("Decode attention on one H200, H = 32, G = 8, d = 128, bf16", fontsize=10)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


main()
