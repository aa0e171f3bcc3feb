"""What the peers share: arguments, the prompt, one fresh process per length, one JSON line each."""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEFAULT_LENGTHS = [512, 2048, 6300, 16384]
WARM_UP_TOKENS = 64


def parse_arguments(description, add_own=lambda parser: None):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-gguf", type=pathlib.Path, required=True,
                        help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--text", type=pathlib.Path, help="default: the .txt in deploy/sample")
    parser.add_argument("--lengths", type=int, nargs="+", default=DEFAULT_LENGTHS, help="tokens")
    parser.add_argument("--decode", type=int, default=32, help="tokens after the prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    add_own(parser)
    args = parser.parse_args()
    if args.text is None:
        args.text = next((ROOT / "deploy" / "sample").glob("*.txt"))
    return args


def prompt_ids(text, length):
    """length token ids of quire-135m's tokenizer, the text repeated as often as that needs."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "quire-135m" / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False).ids
    return (ids * (length // len(ids) + 1))[:length]


def run_workers(lengths):
    """Runs this same script again for each length, so that peaks and load times are its own."""
    for length in lengths:
        start = time.time()
        command = [sys.executable, *sys.argv, "--worker", json.dumps([length, start])]
        subprocess.run(command, check=True)


def timed(work):
    """(result, seconds) of work()."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measure(args, peer, load, versions):
    """Times load() -> (prefill(ids) -> next token, decode(token) -> next token) at one length.

    ready_s runs from the process's start, imports included. A short prompt goes first, untimed.
    """
    length, start = json.loads(args.worker)
    ids = prompt_ids(args.text, length)
    prefill, decode = load(args, length)
    ready_s = time.time() - start
    decode(prefill(ids[:WARM_UP_TOKENS]))
    token, prefill_s = timed(lambda: prefill(ids))

    def decode_all():
        current = token
        for _ in range(args.decode):
            current = decode(current)

    _, decode_s = timed(decode_all)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "peer": peer, "prompt_tokens": length, "decode_tokens": args.decode,
        "threads": args.threads, "prefill_tokens_per_s": round(length / prefill_s, 1),
        "decode_tokens_per_s": round(args.decode / decode_s, 2), "prefill_s": round(prefill_s, 3),
        "decode_s": round(decode_s, 3), "ready_s": round(ready_s, 2), "peak_rss_bytes": peak,
        **versions()}), flush=True)
