"""transformers on a GPU: a model of quire-135m's shape with random weights reads and writes.

    transformers_gpu.py [--prompt 28500] [--new 225] [--repeats 3]

Prints seconds of each repeat, of which the first warms up. What a text model of this shape takes
does not depend on its weights; so none need to be there. Needs torch with CUDA and transformers.
"""

import argparse
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", type=int, default=28500)
    parser.add_argument("--new", type=int, default=225)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, head_dim=64, max_position_embeddings=32768,
        tie_word_embeddings=True, attn_implementation="sdpa")
    model = transformers.LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    ids = torch.randint(0, config.vocab_size, (1, args.prompt), device="cuda")
    for _ in range(args.repeats):
        begin = time.time()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                           max_new_tokens=args.new, min_new_tokens=args.new, pad_token_id=0)
        torch.cuda.synchronize()
        print(f"transformers {transformers.__version__}, {torch.cuda.get_device_name()}: "
              f"{args.prompt} + {args.new} tokens in {time.time() - begin:.2f} s", flush=True)


main()
