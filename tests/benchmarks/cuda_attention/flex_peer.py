"""PyTorch's FlexAttention, a public block-sparse attention, at the shapes of cuda_attention.

    flex_peer.py [--lengths 32768,65536,131072] [--columns 1792] [--csv FILE]

Causal attention of a prompt, H = 32, G = 8, d = 128, bfloat16: dense, and reading so many keys for
each 128 rows, in blocks of 128 that are given: the last two, the first, and others at random. What
it takes to choose them is not in the time. Rows as cuda_attention prints them. Needs a GPU and
PyTorch 2.11 with Triton.
"""

import argparse

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

H, G, D, BLOCK = 32, 8, 128, 128


def causal(b, h, q, k):
    return q >= k


def mask_of(length, columns=None):
    """Each row of blocks reads the diagonal block (masked), and whole ones before it: all, or so
    many columns of them."""
    rows = length // BLOCK
    many = rows if columns is None else max(2, columns // BLOCK)
    generator = torch.Generator().manual_seed(1)
    whole = torch.zeros(rows, rows, dtype=torch.int32)
    counts = torch.zeros(rows, dtype=torch.int32)
    for row in range(rows):
        if row <= many:
            chosen = torch.arange(row)
        else:
            others = 1 + torch.randperm(row - 2, generator=generator)[:many - 2]
            chosen = torch.cat([torch.tensor([0, row - 1]), others.sort().values])
        counts[row] = len(chosen)
        whole[row, :len(chosen)] = chosen.int()
    diagonal = torch.zeros(rows, rows, dtype=torch.int32)
    diagonal[:, 0] = torch.arange(rows)
    ones = torch.ones(rows, dtype=torch.int32)

    def device(x):
        return x[None, None].cuda()

    return BlockMask.from_kv_blocks(device(ones), device(diagonal), device(counts), device(whole),
                                    BLOCK_SIZE=BLOCK, mask_mod=causal)


def median_ms(run, repeats=5):
    run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[repeats // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", default="32768,65536,131072")
    parser.add_argument("--columns", type=int, default=1792)
    parser.add_argument("--csv")
    args = parser.parse_args()
    attend = torch.compile(flex_attention)
    lines = ["kernel,shape,median_us,rate"]
    for length in map(int, args.lengths.split(",")):
        q = torch.randn(1, H, length, D, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(1, G, length, D, device="cuda", dtype=torch.bfloat16)
                for _ in range(2))
        masks = {"flex_dense": mask_of(length),
                 f"flex_sparse_{args.columns}_columns": mask_of(length, args.columns)}
        for name, mask in masks.items():
            with torch.inference_mode():
                ms = median_ms(lambda: attend(q, k, v, block_mask=mask, enable_gqa=True))
            rate = 2 * H * length * (length + 1) * D / ms * 1e-9
            lines.append(f"{name},H{H} G{G} D{D} L{length} B1,{ms * 1e3:.2f},{rate:.1f}")
    print("\n".join(lines))
    if args.csv:
        with open(args.csv, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")


main()
