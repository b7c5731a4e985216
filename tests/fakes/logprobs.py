"""What a fake engine says comes next: numbers that follow from the adapter's files, as a real engine's do.

The base's numbers follow from the prompt. An adapter moves them by as much as its weights are large, each adapter in
its own way: zeros move nothing, other weights give other numbers.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from registry.lora import WEIGHTS_FILE
from registry.safetensors import read_header

VOCABULARY = 64
TOP_TOKENS = 20

Prompt = Sequence[int] | str


def next_tokens(prompt: Prompt, folder: str | None, base: str = "tiny") -> dict[int, float]:
    """The likeliest next tokens; `folder` is the adapter's, None for the base alone."""
    prompt = prompt if isinstance(prompt, str) else list(prompt)  # a list when it came as JSON
    scores = _noise(f"{base} {prompt}")
    if folder is not None:
        strength, content = _weights(Path(folder))
        scores = [score + strength * push for score, push in zip(scores, _noise(f"{content} {prompt}"), strict=True)]
    total = math.log(math.fsum(map(math.exp, scores)))
    ranked = sorted(range(VOCABULARY), key=lambda token: -scores[token])
    return {token: scores[token] - total for token in ranked[:TOP_TOKENS]}


def _noise(seed: str) -> list[float]:
    # Seeded by text, which is the same in every process.
    generator = random.Random(seed)
    return [generator.gauss(0.0, 3.0) for _ in range(VOCABULARY)]


def _weights(folder: Path) -> tuple[float, str]:
    """How much an adapter does, in [0, 1], and what tells it from others."""
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        return 1.0, str(folder)
    content = file.read_bytes()
    largest = {"A": 0.0, "B": 0.0}
    for tensor in read_header(file):
        values = np.frombuffer(content[tensor.start : tensor.end], dtype="<f4")
        side = tensor.name.removesuffix(".weight")[-1]
        largest[side] = max(largest[side], float(np.abs(values).max()))
    return min(1.0, largest["A"] * largest["B"]), hashlib.sha256(content).hexdigest()
