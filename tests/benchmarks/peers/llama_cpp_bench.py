"""llama.cpp (llama-cpp-python) on the CPU with quire-135m's Q4_1 base: one JSON line per length."""

import common

BATCH_TOKENS = 512


def add_own_arguments(parser):
    parser.add_argument("--flash-attn", action="store_true", help="llama.cpp's flash attention")


def load(args, length):
    from llama_cpp import Llama

    model = Llama(str(args.base_gguf), n_ctx=length + args.decode + 1, n_batch=BATCH_TOKENS,
                  n_ubatch=BATCH_TOKENS, n_threads=args.threads, n_threads_batch=args.threads,
                  flash_attn=args.flash_attn, logits_all=False, verbose=False)

    def step(ids):
        model.eval(ids)
        return model.sample(temp=0.0)

    def prefill(ids):
        model.reset()
        return step(ids)

    return prefill, lambda token: step([token])


def versions(args):
    import llama_cpp

    return {"llama_cpp_python": llama_cpp.__version__, "flash_attn": args.flash_attn,
            "n_batch": BATCH_TOKENS, "system": llama_cpp.llama_print_system_info().decode().strip()}


def main():
    args = common.parse_arguments(__doc__, add_own_arguments)
    if args.worker:
        common.measure(args, "llama.cpp", load, lambda: versions(args))
    else:
        common.run_workers(args.lengths)


if __name__ == "__main__":
    main()
