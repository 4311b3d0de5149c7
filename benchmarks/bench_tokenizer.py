# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Is `ClipHFTokenizer` exact, and how fast is it, beside OpenAI's `SimpleTokenizer` and transformers' `CLIPTokenizer`?

Each round encodes new captions with every tokenizer, in turns. The first round is cold: all caches are empty. The
others are warm: words that were met before are cached; no caption is repeated.
"""

import argparse
import datetime
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import CLIPTokenizer

import references
from clip_hf import ClipHFTokenizer


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_tokenizer import emoji_names, hard_texts


CONTEXT_LENGTH = 77
TEMPLATES = ["A photo of a {}, with {}.", "two people and a {} near the {}", "{}: a close-up; {} in the background"]


def plain_captions(generator: random.Random, count: int) -> list[str]:
    """English captions in ASCII, from the English names of emoji."""
    names = [name for name in (text.split(" ", 1)[1] for text in emoji_names(1, ("en",))) if name.isascii()]
    return [generator.choice(TEMPLATES).format(*generator.choices(names, k=2)) for _ in range(count)]


def mixed_captions(generator: random.Random, count: int) -> list[str]:
    """Captions in 14 languages with emoji, accents, and the curly quotes and HTML entities that captions have."""
    names = emoji_names(1)
    templates = ["{} {}", "{} – {}", "{} · {} #1", "“{}” {}", "{} &amp; {}", *TEMPLATES, "{} 🎉 {}", "{}, {}"]
    return [generator.choice(templates).format(*generator.choices(names, k=2)) for _ in range(count)]


def openai_tensor(tokenizer: object, texts: list[str]) -> torch.Tensor:
    """What OpenAI's `clip.tokenize(texts, truncate=True)` does around its tokenizer."""
    start, end = tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]
    result = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.int)
    for row, text in enumerate(texts):
        ids = [start, *tokenizer.encode(text), end]
        if len(ids) > CONTEXT_LENGTH:
            ids = ids[:CONTEXT_LENGTH]
            ids[-1] = end
        result[row, : len(ids)] = torch.tensor(ids)
    return result


def tokenizers() -> tuple[ClipHFTokenizer, object, CLIPTokenizer]:
    """New tokenizers with the same vocabulary: ours, OpenAI's, transformers'."""
    openai = references.load_openai_tokenizer()
    stock = CLIPTokenizer(vocab=openai.encoder, merges=list(openai.bpe_ranks), model_max_length=CONTEXT_LENGTH)
    return ClipHFTokenizer.from_bpe_file(references.openai_bpe_path()), openai, stock


def count_differences(count: int) -> None:
    """Print on how many hard texts the ids differ from OpenAI's."""
    ours, openai, stock = tokenizers()
    texts = list(dict.fromkeys(hard_texts(count, seed=30)))
    expected = [openai.encode(text) for text in texts]

    def different(tokenizer) -> int:
        return sum(ids != encode(tokenizer, text) for text, ids in zip(texts, expected))

    def encode(tokenizer, text: str) -> list[int] | None:
        try:
            return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        except TypeError:  # transformers' tokenizer refuses lone surrogates
            return None

    print(f"ids other than OpenAI's on {len(texts)} hard texts: ", end="")
    print(f"ClipHFTokenizer {different(ours)}, CLIPTokenizer {different(stock)}\n")


def measure(label: str, make_texts: Callable, rounds: int, batch: int) -> None:
    """Print times of ids and of padded tensors for batches of captions."""
    for output in ("ids", "tensor"):
        ours, openai, stock = tokenizers()
        options = {"padding": "max_length", "truncation": True, "max_length": CONTEXT_LENGTH, "return_tensors": "pt"}
        kwargs = options if output == "tensor" else {"truncation": True}
        sides: dict[str, Callable] = {
            "clip_hf": lambda texts, encode=ours, kwargs=kwargs: encode(texts, **kwargs)["input_ids"],
            "OpenAI": (
                (lambda texts, encode=openai.encode: [encode(text) for text in texts])
                if output == "ids"
                else (lambda texts, openai=openai: openai_tensor(openai, texts))
            ),
            "transformers": lambda texts, encode=stock, kwargs=kwargs: encode(texts, **kwargs)["input_ids"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        generator = random.Random(0)
        for number in range(rounds + 1):
            texts = make_texts(generator, batch)
            names = list(sides)
            for name in names[number % 3 :] + names[: number % 3]:
                start = time.perf_counter()
                sides[name](texts)
                seconds[name].append(time.perf_counter() - start)
        cold = {name: values[0] for name, values in seconds.items()}
        warm = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        for cache, times in (("cold", cold), ("warm", warm)):
            cells = ", ".join(f"{name} {1000 * value:7.1f} ms" for name, value in times.items())
            ratios = ", ".join(f"{times[name] / times['clip_hf']:5.1f}x {name}" for name in ("OpenAI", "transformers"))
            print(f"{label:6} {output:6} {cache}: {cells}; clip_hf is {ratios}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1000, help="captions per batch")
    parser.add_argument("--rounds", type=int, default=15, help="warm rounds; medians are given")
    parser.add_argument("--texts", type=int, default=6000, help="hard texts whose ids are compared")
    arguments = parser.parse_args()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("transformers", "tokenizers", "ftfy", "regex", "torch")
    )
    print(f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{packages}, openai-clip 1.0.1; transformers' tokenizer uses all CPUs, the others one\n")
    count_differences(arguments.texts)
    print(f"time per batch of {arguments.batch} captions, median of {arguments.rounds} warm rounds")
    measure("plain", plain_captions, arguments.rounds, arguments.batch)
    measure("mixed", mixed_captions, arguments.rounds, arguments.batch)


if __name__ == "__main__":
    main()
