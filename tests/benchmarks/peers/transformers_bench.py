"""transformers on the CPU with quire-135m (base and adapter merged): one JSON line per length."""

import pathlib
import shutil
import sys
import tempfile

import common

sys.path.insert(0, str(common.ROOT / "tests" / "golden"))


def add_own_arguments(parser):
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--merged", type=pathlib.Path,
                        help="folder of the merged model; default: made and removed again")


def save_merged(args, folder):
    """The merged model in Hugging Face format, so that loading it is timed like any other."""
    import torch

    import reference

    model = reference.load_bundled(common.ROOT / "models" / "quire-135m", args.base_gguf,
                                   dtype=getattr(torch, args.dtype))
    model.save_pretrained(folder)


def load(args, _length):
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(
        args.merged, dtype=getattr(torch, args.dtype), attn_implementation="sdpa").eval()
    cache = None

    def step(ids):
        out = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())

    def prefill(ids):
        nonlocal cache
        cache = DynamicCache(config=model.config)
        return step(ids)

    return prefill, lambda token: step([token])


def versions(args):
    import torch
    import transformers

    return {"transformers": transformers.__version__, "torch": torch.__version__,
            "dtype": args.dtype, "attention": "sdpa",
            "cpu": torch.backends.cpu.get_cpu_capability()}


def main():
    args = common.parse_arguments(__doc__, add_own_arguments)
    if args.worker:
        common.measure(args, "transformers", load, lambda: versions(args))
        return
    if args.merged:
        common.run_workers(args.lengths)
        return
    folder = tempfile.mkdtemp(prefix="quire-merged-")
    try:
        save_merged(args, folder)
        sys.argv += ["--merged", folder]
        common.run_workers(args.lengths)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
