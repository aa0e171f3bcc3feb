"""Whether shadow runs measure what an A/B of the same requests measures.

    shadow_ab.py [--model models/quire-19m] [--tokens 6000] [--documents 4] [--rounds 3]

A: the documents are scored with refined attention and with dense attention, by turns, on a server
without shadow runs; the ratio of the sums of their prefill times. B: they are scored with refined
attention on a server that measures every request by a shadow run; the ratio of the sums of dense
and own device time in its metrics. Prints both, and how far they are apart; exits with 1 if that
is more than 10 %. The documents are pieces of --text. Needs an otherwise idle machine.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/cpu-release/bin"
CHARACTERS_PER_TOKEN = 4
LIMIT = 0.10


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "models/quire-19m"))
    parser.add_argument("--text", type=pathlib.Path,
                        default=next((ROOT / "deploy/sample").glob("*.txt")))
    parser.add_argument("--tokens", type=int, default=6000, help="of a document, about")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bin", type=pathlib.Path, default=BIN)
    return parser.parse_args()


class Server:
    """quire-server with a shadow_share, on free ports, until the end of a with block."""

    def __init__(self, args, folder, share):
        self.bin = args.bin
        self.ports = pathlib.Path(folder) / f"ports-{share}"
        self.process = subprocess.Popen(
            [args.bin / "quire-server", "--model", args.model, "--listen", "127.0.0.1:0",
             "--http-listen", "127.0.0.1:0", "--port-file", self.ports, "--prefix-cache", "off",
             "--shadow-share", str(share), "--shadow-device-seconds-per-minute", "60"],
            stderr=subprocess.DEVNULL)

    def __enter__(self):
        while not self.ports.exists():
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.05)
        lines = self.ports.read_text().splitlines()
        self.address = dict(line.split("=") for line in lines)
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()

    def score(self, path, mode):
        """Device seconds of one scored document."""
        run = subprocess.run(
            [self.bin / "quire", "--server", self.address["grpc"], "score", path, "--attention",
             mode, "--json"], check=True, text=True, stdout=subprocess.PIPE)
        return json.loads(run.stdout)["receipt"]["device_seconds"]

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.address['http']}/metrics") as page:
            text = page.read().decode()
        return {key: float(value) for key, value in
                (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}


def documents(args, folder):
    size = args.tokens * CHARACTERS_PER_TOKEN
    text = args.text.read_text()
    assert len(text) >= size, f"{args.text} has fewer than {size} characters"
    step = max(1, (len(text) - size) // max(1, args.documents - 1))
    for i in range(args.documents):
        path = pathlib.Path(folder) / f"document-{i}.txt"
        path.write_text(text[i * step:i * step + size])
        yield path


def offline(args, folder, paths):
    """Dense over refined seconds, without shadow runs."""
    seconds = {"dense": 0.0, "refined": 0.0}
    with Server(args, folder, 0) as server:
        for _ in range(args.rounds):
            for path in paths:
                for mode in seconds:
                    seconds[mode] += server.score(path, mode)
    return seconds["dense"] / seconds["refined"]


def shadowed(args, folder, paths):
    """The same ratio as shadow runs measure it."""
    with Server(args, folder, 1) as server:
        for done in range(args.rounds * len(paths)):
            server.score(paths[done % len(paths)], "refined")
            while server.metrics()["quire_shadow_samples_total"] <= done:
                time.sleep(0.1)
        metrics = server.metrics()
    own = metrics['quire_request_device_seconds_total{basis="measured"}']
    dense = metrics['quire_request_dense_device_seconds_total{basis="measured"}']
    return dense / own


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        paths = list(documents(args, folder))
        a = offline(args, folder, paths)
        b = shadowed(args, folder, paths)
    apart = abs(b / a - 1)
    print(f"{args.documents} documents of about {args.tokens} tokens, {args.rounds} rounds, "
          f"{pathlib.Path(args.model).name}")
    print(f"dense over refined: A/B {a:.3f}, shadow runs {b:.3f}, {apart:.1%} apart "
          f"({'within' if apart <= LIMIT else 'MORE THAN'} {LIMIT:.0%})")
    return 0 if apart <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
