"""Attention that reads sinks, a window and some of the far tokens: what it gives, simulated.

Every score is computed; what a variant would not read is masked. So this says how good a variant
is and how many columns it reads, and nothing about its speed.

Shapes: G key/value heads, R query heads that share one, X tiles of T rows, N keys.
"""

import dataclasses
import math

import torch

from index import index
from model import dense, dense_rows


@dataclasses.dataclass
class Variant:
    keep: str = "sample"     # sample: with probability share / level (importance sampling);
    level: float = 1e-3      # mass: the largest until `level` of the attention is left;
                             # threshold: all whose share is above level
    rest: str = "means"      # of mass and threshold: what stands for the tokens that are not
                             # read: means (of a page), index (its own mass for it), drop
    tile: int = 1            # rows that share a choice
    window: int = 128
    sinks: int = 64
    page: int = 64
    index: str = "s4"
    reduce: str = "mean"     # of a token's share over the tile's rows and heads: mean, max, rms
    int8_queries: bool = True
    linear_exp: bool = False  # 2^x by linear interpolation between powers of two
    by_value: bool = False    # shares weighed by |value - mean value of the page|
    per_head: bool = False    # every query head chooses for itself
    systematic: bool = False  # one random offset a row instead of a draw for each token
    every_row: int = 1        # only every so many rows of a tile are looked at
    neighbours: int = 1       # so many tiles use the choice of their first
    layers: int = 1           # so many layers use the choice of their first; heads: "same" head,
    heads: str = "same"       # "mean" or "max" over the first layer's heads
    online: bool = False      # shares of what is near and the far tokens after, not of all:
                              # what a pass from the last token to the first knows
    skip_below: float = 0.     # no far token for a tile if the pages' means say it is below
    gate: tuple = (1, 0)      # (tiles, share): tiles after the first skip pages below the share


class Sparse:
    """An `attend` of Model.hidden, which adds up what it read. The first `chunk` rows are
    dense."""

    def __init__(self, variant, chunk=1024):
        self.v, self.chunk = variant, chunk
        self.read = self.total = 0.   # columns
        self.far_read = 0.            # of them those of far tokens, all tiles
        self.uncertain = self.rows = 0.  # share of attention not read for certain; tiles
        self.looked_at = self.pages = 0.  # of the gate
        self.kept = {}            # by chunk: the first layer's shares

    def __call__(self, layer, q, k, v):
        if self.v.per_head:
            share = q.shape[0] // k.shape[0]
            k, v = k.repeat_interleave(share, 0), v.repeat_interleave(share, 0)
        n, tile = q.shape[1], self.v.tile
        out = torch.empty_like(q)
        first = self.chunk
        out[:, :first] = dense(layer, q[:, :first], k[:, :first], v[:, :first])
        keys = k if self.v.index == "e4m3" else index(self.v.index, k, self.v.page)
        for begin in range(first, n, self.chunk):
            end = min(begin + self.chunk, n)
            whole = begin + (end - begin) // tile * tile
            if whole > begin:
                out[:, begin:whole] = Chunk(self, layer, q, k, v, keys, begin, whole).run()
            if whole < end:
                out[:, whole:end] = dense_rows(q, k, v, whole, end)
        return out


class Chunk:
    def __init__(self, owner, layer, q, k, v, keys, begin, end):
        o = owner.v
        self.owner, self.o, self.layer, self.begin = owner, o, layer, begin
        groups, dim = k.shape[0], q.shape[-1]
        self.groups, self.tiles, self.n = groups, (end - begin) // o.tile, end
        self.full = end // o.page * o.page  # keys in whole pages
        self.k, self.v = k[:, :end], v[:, :end]
        self.q = q[:, begin:end].reshape(groups, -1, self.tiles, o.tile, dim) * dim ** -.5
        starts = begin + o.tile * torch.arange(self.tiles, device=q.device)
        windows = ((starts - o.window) // o.page * o.page).clamp_min(o.sinks)
        position = torch.arange(end, device=q.device)
        rows = starts[:, None] + torch.arange(o.tile, device=q.device)  # [X, T]
        self.seen = position <= rows[..., None]  # [X, T, N]
        self.far = (position >= o.sinks) & (position < windows[:, None])  # [X, N]
        self.exact = self.scores(self.q, self.k).masked_fill_(~self.seen, -torch.inf)
        self.estimate = self.exact
        if o.index == "e4m3":
            self.estimate = torch.where(self.far[:, None], self.rounded_scores(), self.exact)
        elif o.index != "exact":
            queries = self.q
            if o.int8_queries:
                scale = queries.abs().amax(-1, keepdim=True) / 127
                queries = (queries / scale).round() * scale
            self.estimate = torch.where(self.far[:, None], self.scores(queries, keys[:, :end]),
                                        self.exact)

    def rounded_scores(self):
        """Queries and keys in 8-bit floats, the head's mean key apart."""
        mean = self.k.mean(1, keepdim=True)

        def rounded(x):
            return x.to(torch.float8_e4m3fn).float()

        return self.scores(rounded(self.q * 8) / 8, rounded(self.k - mean)) + self.scores(
            self.q, mean)

    @staticmethod
    def scores(q, k):
        return torch.einsum("grxtd,gnd->grxtn", q, k)

    def run(self):
        share = self.shares()
        log_probability = None
        if self.o.keep == "sample":
            chosen, log_probability, certain = self.sample(share)
        else:
            chosen = certain = self.largest(share)
        self.count(share, chosen, certain)
        scores = self.exact.masked_fill(~(chosen | ~self.far)[:, None, :, None], -torch.inf)
        if log_probability is not None:
            scores = scores - log_probability[:, None, :, None]
        if self.o.keep == "sample" or self.o.rest == "drop":
            out = self.average(scores.softmax(-1), self.v)
        else:
            out = self.with_means(scores, chosen)
        return out.reshape(-1, self.tiles * self.o.tile, self.q.shape[-1])

    @staticmethod
    def average(p, v):
        return torch.einsum("grxtn,gnd->grxtd", p, v)

    # ---- how much of the attention a far token has, as the index says: [G, X, N]
    def shares(self):
        p = self.running_shares() if self.o.online else self.softmax()
        p = torch.where(self.far[:, None], p, 0)[:, :, :, self.o.every_row // 2::self.o.every_row]
        if self.o.reduce == "max":
            return p.amax((1, 3))
        return p.mean((1, 3)) if self.o.reduce == "mean" else p.pow(2).mean((1, 3)).sqrt()

    def running_shares(self):
        weights = (self.estimate - self.estimate.amax(-1, keepdim=True)).exp()
        far = self.far[:, None]
        near = torch.where(far, 0, weights).sum(-1, keepdim=True)
        later = torch.where(far, weights, 0).flip(-1).cumsum(-1).flip(-1)
        return weights / (near + later)

    def softmax(self):
        if not self.o.linear_exp:
            return self.estimate.softmax(-1)
        x = self.estimate * math.log2(math.e)
        x = (x - x.amax(-1, keepdim=True)).clamp_min(-100)
        whole = x.floor()
        p = torch.where(x <= -100, 0, torch.exp2(whole) * (1 + x - whole))
        return p / p.sum(-1, keepdim=True)

    def pages(self, x):
        return x[..., :self.full].unflatten(-1, (-1, self.o.page))

    def weigh(self, share):
        """Whose choice counts, and what a token's value counts."""
        o = self.o
        if o.neighbours > 1:
            first = share.unflatten(1, (-1, o.neighbours))[:, :, :1]
            share = first.expand(-1, -1, o.neighbours, -1).flatten(1, 2)
        if o.layers > 1:
            if self.layer % o.layers == 0:
                self.owner.kept[self.begin] = share
            else:
                share = self.owner.kept[self.begin]
                if o.heads != "same":
                    one = share.mean(0) if o.heads == "mean" else share.amax(0)
                    share = one.expand(self.groups, -1, -1)
        if o.by_value:
            values = self.v[:, :self.full].unflatten(1, (-1, o.page))
            size = torch.ones(self.v.shape[:2], device=share.device)
            size[:, :self.full] = (values - values.mean(2, keepdim=True)).norm(dim=-1).flatten(1)
            share = share * (size / size.mean(1, keepdim=True))[:, None]
        return torch.where(self.far, share, 0)

    # ---- which far tokens are read: [G, X, N]
    def largest(self, share):
        weight = self.weigh(share)
        if self.o.keep == "threshold":
            chosen = weight > self.o.level
        else:
            ordered, order = weight.sort(-1, descending=True)
            before = ordered.sum(-1, keepdim=True) - ordered.cumsum(-1) + ordered
            chosen = torch.zeros_like(self.far.expand_as(weight)).scatter_(
                -1, order, before > self.o.level)
        chosen = chosen & self.far
        if self.o.skip_below:
            chosen &= ~self.skipped()[..., None]
        if self.o.gate[0] > 1:
            chosen[..., :self.full] &= self.open_pages(share).repeat_interleave(self.o.page, -1)
        return chosen

    def sample(self, share):
        probability = (self.weigh(share) / self.o.level).clamp(max=1.)
        if self.o.systematic:
            total = probability.double().cumsum(-1)
            total = total + torch.rand_like(total[..., :1])
            chosen = (total.floor() > (total - probability.double()).floor()) & self.far
        else:
            chosen = (torch.rand_like(probability) < probability) & self.far
        logs = torch.where(chosen, probability.clamp_min(1e-9).log(), 0)
        return chosen, logs, (probability >= 1) & self.far

    def skipped(self):
        """Tiles to whom the means of the far pages promise too little: [G, X]."""
        means = self.k[:, :self.full].unflatten(1, (-1, self.o.page)).mean(2)
        far = self.pages(self.far).all(-1)
        scores = self.scores(self.q, means) + math.log(self.o.page)
        scores = scores.masked_fill(~far[:, None], -torch.inf).logsumexp(-1)
        near = self.exact.masked_fill(self.far[:, None], -torch.inf).logsumexp(-1)
        return torch.sigmoid(scores - near).mean((1, 3)) < self.o.skip_below

    def open_pages(self, share):
        """Pages that a tile looks at, by what the first of its neighbours found: [G, X, P]."""
        tiles, least = int(self.o.gate[0]), self.o.gate[1]
        mass = self.pages(share).sum(-1).unflatten(1, (-1, tiles))
        is_open = (mass[:, :, :1] > least).repeat(1, 1, tiles, 1)
        is_open[:, :, 0] = True
        far = self.pages(self.far).all(-1)
        known = far.unflatten(0, (-1, tiles))[:, :1].expand(-1, tiles, -1).flatten(0, 1)
        is_open = is_open.flatten(1, 2) | ~far | ~known  # later pages are always looked at
        self.owner.looked_at += (is_open & far).sum().item()
        self.owner.pages += far.sum().item() * self.groups
        return is_open

    # ---- what stands for the rest of a page
    def with_means(self, scores, chosen):
        rest = self.pages(self.far & ~chosen)  # [G, X, P, M]
        count = rest.sum(-1)

        def mean(x):
            pages = x[:, :self.full].unflatten(1, (-1, self.o.page))
            return (torch.einsum("gxpm,gpmd->gxpd", rest.float(), pages)
                    / count.clamp_min(1)[..., None])

        if self.o.rest == "index":
            own = self.pages(self.estimate).masked_fill(~rest[:, None, :, None], -torch.inf)
            group = own.logsumexp(-1)
        else:
            group = torch.einsum("grxtd,gxpd->grxtp", self.q, mean(self.k))
            group = group + count.clamp_min(1).log()[:, None, :, None]
        group = group.masked_fill((count == 0)[:, None, :, None], -torch.inf)
        p = torch.cat([scores, group], -1).softmax(-1)
        return (self.average(p[..., :self.n], self.v)
                + torch.einsum("grxtp,gxpd->grxtd", p[..., self.n:], mean(self.v)))

    def count(self, share, chosen, certain):
        o = self.owner
        near = (~self.far[:, None] & self.seen).float().mean(1).sum().item() * self.groups
        means = self.o.keep != "sample" and self.o.rest != "drop"
        groups = self.far.sum().item() / self.o.page * self.groups if means else 0
        o.read += chosen.sum().item() + near + groups
        o.far_read += chosen.sum().item()
        o.total += self.seen.float().mean(1).sum().item() * self.groups
        o.uncertain += torch.where(self.far & ~certain, share, 0).sum().item()
        o.rows += self.groups * self.tiles
