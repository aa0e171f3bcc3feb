"""Tables (Markdown) of what dga_quality wrote.

    report.py [--errors | --paper] CSV [CSV ...]

Without a flag: cost, quality and time of each setting, a table for each model and length.
--errors: how well the error that a request reports tells how far its answer is from dense.
--paper: perplexity of the published method over m and gamma, beside the published numbers.
"""

import argparse

import rows as data

# Wu et al., arXiv 2505.22107: LLaMA2-7B, over m at gamma .1 and over gamma at m 16.
PUBLISHED_M = {4: 3.20, 8: 3.42, 16: 3.59, 32: 3.77, 64: 3.87}
PUBLISHED_GAMMA = {.1: 3.59, .3: 3.43, .5: 3.27, .7: 3.22, .9: 3.20}

REPORTED = (("tail_risk", "tail risk"), ("audit_error", "audited error"))
TRUE = (("kl", "KL to dense"), ("hidden_error", "error of the last hidden state"))


def table(header, lines):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def costs(rows):
    for (model, length, phase), group in data.panels(rows):
        print(f"{model}, {length:,.0f} tokens, {phase}, {group[0]['prompts']} prompt(s), "
              f"dense perplexity {group[0]['dense_perplexity']:.2f}, "
              f"dense attention {group[0]['dense_attention_s']:.2f} s\n")
        table(("setting", "columns", "selection macs", "all macs", "all bytes", "KL",
               "agreement", "perplexity", "facts found (dense)", "attention time",
               "Score time", "coverage", "audited error"),
              ((row["setting"], f"{row['columns']:.3f}", f"{row['selection_macs']:.3f}",
                f"{row['all_macs']:.3f}", f"{row['all_bytes']:.3f}", f"{row['kl']:.4f}",
                f"{row['agreement']:.3f}",
                f"{100 * (row['perplexity'] / row['dense_perplexity'] - 1):+.2f} %",
                f"{row['found']:.0f} ({row['dense_found']:.0f}) of {row['asked']:.0f}",
                f"{row['attention_speedup']:.2f}x",
                f"{row['score_speedup']:.2f}x" if row["score_s"] else "",
                f"{row['coverage']:.3f}", f"{row['audit_error']:.4f}") for row in group))


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for i in range(first, last + 1):
            result[order[i]] = (first + last) / 2
        first = last + 1
    return result


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    variances = sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)
    return covariance / variances ** .5 if variances else float("nan")


def errors(rows):
    rows = [row for row in rows if row["phase"] == "prefill" and row["coverage"] > 0]
    settings = sorted({row["setting"] for row in rows})
    groups = [("all requests", rows)]
    groups += [(name, [row for row in rows if row["setting"] == name]) for name in settings]
    lines = []
    for name, group in groups:
        for own, own_name in REPORTED:
            values = [row[own] for row in group]
            lines.append((name, str(len(group)), own_name,
                          f"{min(values):.4f} to {max(values):.4f}",
                          *(f"{spearman(values, [row[other] for row in group]):.2f}"
                            for other, _ in TRUE)))
    print("Spearman's rank correlation\n")
    table(("requests", "number", "reported", "range", *(name for _, name in TRUE)), lines)


def parameters(setting):
    return dict(part.split("=") for part in setting.split(",")[1:])


def paper(rows):
    rows = [row for row in data.means(rows, "model", "length", "phase", "setting")
            if row["curve"].startswith("faithful") and row["phase"] == "prefill"]
    for name, published, fixed in (("m", PUBLISHED_M, ("gamma", .1)),
                                   ("gamma", PUBLISHED_GAMMA, ("m", 16))):
        lines = []
        for row in rows:
            values = {key: float(value) for key, value in parameters(row["setting"]).items()
                      if key in ("m", "gamma")}
            if values.get(fixed[0]) != fixed[1] or values.get(name) not in published:
                continue
            ours = row["perplexity"] / row["dense_perplexity"]
            lines.append((f"{values[name]:g}", f"{row['columns']:.3f}",
                          f"{row['perplexity']:.3f}", f"{100 * (ours - 1):+.2f} %",
                          f"{published[values[name]]:.2f}"))
        if not lines:
            continue
        print(f"{rows[0]['model']}, {rows[0]['length']:,.0f} tokens, {fixed[0]} = {fixed[1]}\n")
        table((name, "columns", "perplexity", "against dense", "published (LLaMA2-7B)"),
              sorted(lines, key=lambda line: float(line[0])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("csv", nargs="+")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--paper", action="store_true")
    args = parser.parse_args()
    rows = data.read(args.csv)
    (errors if args.errors else paper if args.paper else costs)(rows)


main()
