"""Cheap copies of the keys, by which far tokens are judged: index(kind, keys, page).

    exact     the keys themselves
    tB        B bits, a range for each token and 32 channels, the page's mean removed
    sB        B bits, one scale for each token, the page's mean removed; codes around 0
    cB        B bits, a range for each channel of a page
    e4m3      8-bit floats, queries too (sparse.py)
    pNbB      N principal directions of the head's keys, B bits each
"""

import torch


def quantise(x, bits, dim):
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    step = ((high - low) / (2 ** bits - 1)).clamp_min(1e-8)
    return ((x - low) / step).round() * step + low


def per_token(pages, bits):
    mean = pages.mean(2, keepdim=True)
    parts = (pages - mean).unflatten(-1, (-1, 32))
    return quantise(parts, bits, -1).flatten(-2) + mean


def one_scale(pages, bits):
    mean = pages.mean(2, keepdim=True)
    x, half = pages - mean, 2 ** (bits - 1)
    scale = x.abs().amax(-1, keepdim=True) / (half - .5)
    codes = (x / scale + half - .5).round().clamp(0, 2 ** bits - 1)
    return (codes - half + .5) * scale + mean


def principal(keys, pages, directions, bits):
    mean = keys.mean(1, keepdim=True)
    spread = torch.einsum("gnd,gne->gde", keys - mean, keys - mean)
    basis = torch.linalg.eigh(spread)[1][:, :, -directions:]
    x = torch.einsum("gpmd,gde->gpme", pages - mean[:, None], basis)
    return torch.einsum("gpme,gde->gpmd", quantise(x, bits, 2), basis) + mean[:, None]


def index(kind, keys, page):
    """keys [G, n, D] -> the same shape; the last, unfinished page stays exact."""
    full = keys.shape[1] // page * page
    pages = keys[:, :full].unflatten(1, (-1, page))
    if kind == "exact":
        return keys
    if kind[0] == "t":
        pages = per_token(pages, int(kind[1:]))
    elif kind[0] == "s":
        pages = one_scale(pages, int(kind[1:]))
    elif kind[0] == "c":
        pages = quantise(pages, int(kind[1:]), 2)
    else:
        directions, bits = kind[1:].split("b")
        pages = principal(keys, pages, int(directions), int(bits))
    return torch.cat([pages.flatten(1, 2), keys[:, full:]], 1)
