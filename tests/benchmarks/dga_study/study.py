"""Which sparse attention keeps a model's answers: simulated variants against dense attention.

    study.py --model FOLDER [--base-gguf FILE] --text FILE.npz [--text ...]
             [--list NAME ...] [--variant KEY=VALUE,... ...] [--out FILE.jsonl] [--device cuda]

One JSON line for each text and variant: columns read, KL to dense over every --stride-th position
from 2,048 on, agreement of the next token, perplexity, facts found. The lists are those of
docs/dga-findings.md (variants.py); a variant of your own is named by the fields of
sparse.Variant. Packages: tests/golden/requirements.txt. A GPU with 40 GB does 16K tokens in
some seconds a variant.
"""

import argparse
import dataclasses
import json
import math
import time

import numpy as np
import torch

import variants
from model import Model, dense
from sparse import Sparse, Variant


class Text:
    """One text and what dense attention makes of it."""

    def __init__(self, model, path, first, stride):
        data = np.load(path)
        device = model.device
        self.model, self.name = model, path
        self.ids = torch.tensor(data["ids"].astype(np.int64), device=device)
        self.answers = torch.tensor(data["answers"].astype(np.int64), device=device)
        self.positions = torch.arange(first, int(data["text"]), stride, device=device)
        hidden = model.hidden(self.ids, dense)
        self.logs = model.logits(hidden[self.positions]).log_softmax(-1)
        self.found = self.retrieved(hidden)
        self.next = self.ids[self.positions + 1]
        self.loss = -self.logs.gather(1, self.next[:, None]).mean().item()

    def retrieved(self, hidden):
        best = self.model.logits(hidden[(self.answers - 1).flatten()]).argmax(-1)
        right = best.view(self.answers.shape) == self.ids[self.answers]
        return right.all(1).float().mean().item()

    def measure(self, attend):
        hidden = self.model.hidden(self.ids, attend)
        divergence, agreed, loss = [], 0, 0.
        for rows in torch.arange(len(self.positions)).split(256):
            q = self.model.logits(hidden[self.positions[rows]]).log_softmax(-1)
            p = self.logs[rows]
            divergence.append((p.exp() * (p - q)).sum(-1))
            agreed += (q.argmax(-1) == p.argmax(-1)).sum().item()
            loss -= q.gather(1, self.next[rows][:, None]).sum().item()
        count = len(self.positions)
        return {"kl": torch.cat(divergence).mean().item(), "agreement": agreed / count,
                "perplexity": math.exp(loss / count), "dense_perplexity": math.exp(self.loss),
                "found": self.retrieved(hidden), "dense_found": self.found}


def parse(text):
    fields = {field.name: type(field.default) for field in dataclasses.fields(Variant)}
    values = {}
    for part in text.split(","):
        name, value = part.split("=")
        kind = fields[name]
        values[name] = (value == "True" if kind is bool else
                        tuple(map(float, value.split(":"))) if kind is tuple else kind(value))
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--base-gguf")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--list", action="append", choices=variants.LISTS, default=[])
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--first", type=int, default=2048)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--out")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    chosen = [values for name in args.list for values in variants.LISTS[name]]
    chosen += [parse(text) for text in args.variant]
    model = Model(args.model, args.base_gguf, args.device)
    with open(args.out or "/dev/null", "a", encoding="utf-8") as out, torch.inference_mode():
        for path in args.text:
            text = Text(model, path, args.first, args.stride)
            for values in chosen:
                torch.manual_seed(1)
                attend, start = Sparse(Variant(**values), args.chunk), time.time()
                row = {"text": path, **values, **text.measure(attend),
                       "columns": attend.read / attend.total,
                       "far_columns": attend.far_read / attend.rows,
                       "uncertain": attend.uncertain / attend.rows,
                       "seconds": time.time() - start}
                if attend.pages:
                    row["pages_looked_at"] = attend.looked_at / attend.pages
                line = json.dumps({name: round(value, 5) if isinstance(value, float) else value
                                   for name, value in row.items()})
                print(line, flush=True)
                out.write(line + "\n")


main()
