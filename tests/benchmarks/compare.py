"""Quire beside its peers on the same base model, by turns in one run, as tables.

    compare.py --base-gguf FILE --python VENV/bin/python [--rounds 3] [--lengths ...] [--json FILE]

For each length and round one fresh process of each program: quire (built with the tests, or
--runner-bench), transformers and llama.cpp (peers/README.md says how to install them). Medians
over the rounds. Needs an otherwise idle machine: see peers/README.md.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ("quire", "transformers", "llama.cpp")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base-gguf", type=pathlib.Path, required=True)
    parser.add_argument("--python", required=True, help="of the peers' virtual environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 6300, 16384])
    parser.add_argument("--json", type=pathlib.Path, help="also write every measurement there")
    parser.add_argument("--runner-bench", type=pathlib.Path,
                        default=ROOT / "build/cpu-release/tests/benchmarks/runner_bench")
    return parser.parse_args()


def command(args, program, length):
    if program == "quire":
        text = next((ROOT / "deploy" / "sample").glob("*.txt"))
        return [args.runner_bench, ROOT / "models" / "quire-135m", text, str(length)]
    script = {"transformers": "transformers_bench.py", "llama.cpp": "llama_cpp_bench.py"}[program]
    return [args.python, HERE / "peers" / script, "--base-gguf", args.base_gguf,
            "--lengths", str(length)]


def environment(program):
    # As quire-server sets it for itself (server/main.cc); the peers run as they come.
    return {**os.environ, "GOMP_SPINCOUNT": "1000"} if program == "quire" else None


def measure(args):
    lines = []
    for length in args.lengths:
        for _ in range(args.rounds):
            for program in PROGRAMS:
                run = subprocess.run(command(args, program, length), check=True, text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                     env=environment(program))
                lines.append({**json.loads(run.stdout.splitlines()[-1]), "program": program})
                if args.json:
                    args.json.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return lines


def median(lines, program, length, key):
    return statistics.median(line[key] for line in lines
                             if line["program"] == program and line["prompt_tokens"] == length)


def print_speed(lines, lengths, key, title):
    print(f"\n{title}, tokens/s\n\n| prompt tokens | quire | transformers | llama.cpp "
          "| quire / better peer | quire / transformers |\n|---|---|---|---|---|---|")
    for length in lengths:
        quire, transformers, llama = (median(lines, p, length, key) for p in PROGRAMS)
        print(f"| {length:,} | {quire:.1f} | {transformers:.1f} | {llama:.1f} "
              f"| {quire / max(transformers, llama):.2f} | {quire / transformers:.2f} |")


def print_memory(lines, lengths):
    print("\nPeak resident memory, MB\n\n| prompt tokens | quire | of it weights | of it KV "
          "| the rest | transformers | llama.cpp |\n|---|---|---|---|---|---|---|")
    for length in lengths:
        peak, weights, kv = (median(lines, "quire", length, key) / 1e6
                             for key in ("peak_rss_bytes", "weight_bytes", "kv_bytes"))
        others = [median(lines, p, length, "peak_rss_bytes") / 1e6 for p in PROGRAMS[1:]]
        print(f"| {length:,} | {peak:.0f} | {weights:.0f} | {kv:.0f} | {peak - weights - kv:.0f} "
              f"| {others[0]:.0f} | {others[1]:.0f} |")


def main():
    args = parse_arguments()
    lines = measure(args)
    print_speed(lines, args.lengths, "prefill_tokens_per_s", "Prefill")
    print_speed(lines, args.lengths, "decode_tokens_per_s", "Decode")
    print_memory(lines, args.lengths)
    ready = [f"{p} {median(lines, p, args.lengths[0], 'ready_s'):.1f}" for p in PROGRAMS]
    print(f"\nStart to ready, seconds: {', '.join(ready)}")


if __name__ == "__main__":
    main()
