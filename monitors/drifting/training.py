"""The prompts that a version was trained on, where the tuner made it: the reference of what its traffic is like."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from monitors.drifting.windows import LEAST_REFERENCE, comparable, prompt_text
from registry.artifacts import ArtifactStore
from registry.errors import NotFound, StoreFailure
from registry.registry import Registry

log = logging.getLogger(__name__)

MOST_PROMPTS = 1000
"""The first of the dataset's, whose order is drawn by hash, so they are a fair sample of it."""
MOST_REMEMBERED = 20_000_000
"""Characters of prompts that are kept in memory, of all datasets together."""
_ROWS = "train.jsonl"


class _Asked(msgspec.Struct, frozen=True):
    """A prompt of a preference pair."""

    messages: list[dict[str, Any]] = []


class _Row(msgspec.Struct, frozen=True):
    """A row of either kind: a conversation, or the prompt of a preference pair."""

    messages: list[dict[str, Any]] = []
    input: _Asked = _Asked()


class TrainingPrompts:
    """Reads them from the dataset that a version's lineage names, and remembers them: a dataset never changes.

    Args:
        registry: has the lineage.
        store: has the dataset.
    """

    def __init__(self, registry: Registry, store: ArtifactStore) -> None:
        self._registry = registry
        self._store = store
        self._known: dict[str, Sequence[str]] = {}

    async def __call__(self, adapter: str, version: int) -> Sequence[str]:
        """The newest text of each prompt, `comparable`; none if unknown, or too few to hold anything against."""
        try:
            record = await self._registry.version_record(adapter, version)
        except NotFound:
            return ()
        digest = (record.lineage or {}).get("dataset")
        if not isinstance(digest, str):
            return ()
        if (known := self._known.get(digest)) is not None:
            return known
        try:
            prompts = await asyncio.to_thread(self._prompts_in, digest)
        except (StoreFailure, OSError, msgspec.DecodeError) as error:
            log.warning("what %s@%d was trained on cannot be read (%s)", adapter, version, type(error).__name__)
            return ()
        self._remember(digest, prompts)
        return prompts

    def _prompts_in(self, digest: str) -> Sequence[str]:
        prompts = [comparable(text) for text in _first_prompts(self._store.fetch(digest) / _ROWS)]
        return prompts if len(prompts) >= LEAST_REFERENCE else ()

    def _remember(self, digest: str, prompts: Sequence[str]) -> None:
        """Beside what was read before, of which the oldest has to go where there is too much."""
        self._known[digest] = prompts
        while sum(len(text) for each in self._known.values() for text in each) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]


def _first_prompts(file: Path) -> Iterator[str]:
    """The texts of the first prompts that have one."""
    found = 0
    with file.open("rb") as lines:
        for line in lines:
            row = msgspec.json.decode(line, type=_Row)
            text = prompt_text(row.messages or row.input.messages)
            if text.strip():
                yield text
                found += 1
            if found == MOST_PROMPTS:
                return
