"""Vectors of prompts, from any OpenAI-compatible endpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from monitors.drifting.windows import Embeddings
from monitors.watch.client import GatewayClient, GatewayRefused

MOST_TEXTS = 1000
"""Of the reference, and of the window: each costs the endpoint work at every look."""
_BATCH = 64
_PATH = "/v1/embeddings"


async def embed_both(client: GatewayClient, model: str, reference: Sequence[str], current: Sequence[str]) -> Embeddings:
    """Vectors of the reference's first texts and of the window's newest.

    Raises:
        GatewayRefused: the endpoint did not answer as it should.
    """
    return Embeddings(
        await embed(client, model, [text for text in reference if text.strip()][:MOST_TEXTS]),
        await embed(client, model, [text for text in current if text.strip()][-MOST_TEXTS:]),
    )


async def embed(client: GatewayClient, model: str, texts: Sequence[str]) -> list[list[float]]:
    """A vector for each text, in their order.

    Raises:
        GatewayRefused: the endpoint did not answer as it should.
    """
    found: list[list[float]] = []
    for begin in range(0, len(texts), _BATCH):
        batch = list(texts[begin : begin + _BATCH])
        found += _vectors(await client.post(_PATH, {"model": model, "input": batch}), len(batch))
    if len({len(vector) for vector in found}) > 1:
        raise GatewayRefused(f"{_PATH} answered with vectors of several lengths")
    return found


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


def _vectors(answer: Mapping[str, Any], count: int) -> list[list[float]]:
    try:
        items = msgspec.convert(answer.get("data"), list[_Item])
    except msgspec.ValidationError:
        items = []
    if sorted(item.index for item in items) != list(range(count)):
        raise GatewayRefused(f"{_PATH} did not answer with a vector for each text")
    return [item.embedding for item in sorted(items, key=lambda item: item.index)]
