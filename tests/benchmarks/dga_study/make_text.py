"""A book with hidden facts and questions about them, as tokens: what study.py reads.

    make_text.py --tokenizer FOLDER/tokenizer.json --book FILE --tokens N --out FILE.npz
                 [--chat] [--seed N] [--facts 16]

The book has one paragraph a line. With --chat the questions are turns of a ChatML conversation
(models/quire-135m), without they are lines of text (models/quire-19m). dga_quality makes its own
prompts the same way.
"""

import argparse
import pathlib
import random

import numpy as np
from tokenizers import Tokenizer

ADJECTIVES = "blue old silver wooden green quiet broken iron".split()
NOUNS = "lantern anchor kettle bridge parrot harbour mirror key".split()
DIGITS = 5  # a token each in both models
TOKENS_PER_QUESTION = 48


def questions(encode, facts, chat):
    """Tokens of all questions with their answers, and where the digits are."""
    ids, digits = [], []
    for number, (thing, code) in enumerate(facts):
        if chat:
            start = "\n\n" if number == 0 else "<|im_start|>user\n"
            ids += encode(f"{start}What is the secret code of the {thing}?<|im_end|>\n"
                          "<|im_start|>assistant\n")
            ids += encode(f"The secret code of the {thing} is {code}")
        else:
            ids += encode(f"\nQuestion: what is the secret code of the {thing}? Answer:")
            ids += encode(f" the secret code of the {thing} is {code}")
        digits.append(range(len(ids) - DIGITS, len(ids)))
        ids += encode(".<|im_end|>\n" if chat else ".\n")
    return ids, digits


def text(encode, lines, facts, tokens, chance):
    """Lines of the book up to so many tokens, with the facts between them."""
    encoded, used = [], 0
    for line in lines:
        encoded.append(encode(line + "\n"))
        used += len(encoded[-1])
        if used > tokens:
            break
    else:
        raise SystemExit(f"the book has {used} tokens there; {tokens} are needed")
    # Not in the last lines, which are cut off.
    places = sorted(chance.sample(range(len(encoded) * 39 // 40), len(facts)))
    ids, places = [], dict(zip(places, facts))
    for number, line in enumerate(encoded):
        if number in places:
            ids += encode("\nThe secret code of the %s is %s.\n" % places[number])
        ids += line
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--book", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--facts", type=int, default=16)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)

    def encode(part):
        return tokenizer.encode(part, add_special_tokens=False).ids

    chance = random.Random(args.seed)
    things = chance.sample([f"{a} {b}" for a in ADJECTIVES for b in NOUNS], args.facts)
    facts = [(thing, str(chance.randrange(10_000, 100_000))) for thing in things]
    start = (encode("<|im_start|>system\nYou are a careful reader of long documents.<|im_end|>\n"
                    "<|im_start|>user\n") if args.chat else [0])
    room = args.tokens - args.facts * TOKENS_PER_QUESTION - len(start)
    body = (start + text(encode, args.book.read_text(encoding="utf-8").split("\n"), facts, room,
                         chance))[:room + len(start)]
    asked, digits = questions(encode, chance.sample(facts, len(facts)), args.chat)
    np.savez_compressed(args.out, ids=np.array(body + asked, dtype=np.uint16), text=len(body),
                        answers=np.array(digits, dtype=np.int32) + len(body))


main()
