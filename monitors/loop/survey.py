"""Which labels a dataset is made of: without what contradicts itself, without repeats, and with a cap for each key.

1. Contradictions. Once somebody has corrected an answer to a prompt, the keys vote: each has one vote, its newest
   correction, else its newest acceptance. The answer of most keys stands; of two with as many the one that is a
   correction; if that decides nothing, nobody knows, and the prompt gives no row. Without a correction all accepted
   answers stand, for there may be several. What a person said beats a teacher.
2. Repeats. The same answer to the same prompt is one row: that of a trusted key if one gave it, else of who gave it
   first, so that nobody takes a row over by saying it again.
3. Caps. `monitors.loop.caps` says how many rows a key may have; which of them these are is decided by a hash of the
   request, which no client can choose.

Prompts and answers are the same here if the tuner would take them for the same (`monitors.teaching.fingerprints`). No
text is kept: some hundred bytes for each label.
"""

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from monitors.loop.caps import most_of_each
from monitors.loop.sources import Label
from monitors.teaching.fingerprints import fingerprint
from registry.policies import LabelSource, RetrainRule

_BATCH = 200
_BEST_FIRST: tuple[LabelSource, ...] = ("correction", "accepted", "teacher")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One label without its text; `prompt` and `row` are hashes of the prompt, and of the prompt with its answer."""

    record: str
    source: LabelSource
    key: str
    prompt: bytes
    row: bytes


@dataclass(slots=True)
class Survey:
    """What the labels are, and which of them a dataset is made of.

    Attributes:
        kept: the source of the label that is taken, by the request's row.
        found: how many there were before the caps.
        without_prompt: labels whose prompt was not captured, or is no longer kept.
        unusable: labels whose prompt or answer is nothing to train on, such as pictures.
        contradicted: labels that others contradict.
        repeated: labels that say what another one says.
        heaviest_key, heaviest_share: of the keys that are not trusted the one with most of what was found, and its
            share of that.
    """

    kept: dict[str, LabelSource] = field(default_factory=dict)
    found: int = 0
    without_prompt: int = 0
    unusable: int = 0
    contradicted: int = 0
    repeated: int = 0
    heaviest_key: str | None = None
    heaviest_share: float = 0.0

    @property
    def by_source(self) -> Mapping[str, int]:
        """How many rows of each kind are taken."""
        return Counter(self.kept.values())


async def survey(labels: AsyncIterable[Label], rule: RetrainRule) -> Survey:
    """Look at all labels, which come the newest first, and choose."""
    found = Survey()
    entries: list[Entry] = []
    async for batch in batches(labels, _BATCH):
        found.without_prompt += sum(label.prompt is None for label in batch)
        there = [label for label in batch if label.prompt is not None]
        usable = await asyncio.to_thread(_entries, there)
        found.unusable += len(there) - len(usable)
        entries += usable
    await asyncio.to_thread(choose, entries, rule, found)
    return found


async def batches(items: AsyncIterable[T], size: int) -> AsyncIterator[list[T]]:
    """The items in lists of that size, the last one of what is left."""
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def choose(entries: Sequence[Entry], rule: RetrainRule, found: Survey) -> None:
    """Note in `found` which entries, the newest first, a dataset is made of."""
    agreeing = _without_contradictions(entries)
    found.contradicted = len(entries) - len(agreeing)
    single = _without_repeats(agreeing, rule.trusted_keys)
    found.repeated, found.found = len(agreeing) - len(single), len(single)
    counts = Counter(entry.key for entry in single)
    capped = {key: count for key, count in counts.items() if key not in rule.trusted_keys}
    if capped:
        found.heaviest_key = max(capped, key=lambda key: (capped[key], key)) or None
        found.heaviest_share = max(capped.values()) / len(single)
    limit = most_of_each(capped.values(), len(single) - sum(capped.values()), rule.most_of_one_key)
    found.kept = {entry.record: entry.source for entry in _capped(single, capped, limit)}


def _entries(labels: Iterable[Label]) -> list[Entry]:
    found = []
    for label in labels:
        if (row := label.row()) is not None:
            same = fingerprint(row)
            found.append(Entry(label.record, label.source, label.key, same.prompt, same.row))
    return found


def _without_contradictions(entries: Iterable[Entry]) -> list[Entry]:
    prompts: defaultdict[bytes, list[Entry]] = defaultdict(list)
    for entry in entries:
        prompts[entry.prompt].append(entry)
    return [entry for same in prompts.values() for entry in _agreeing(same)]


def _agreeing(same: Sequence[Entry]) -> list[Entry]:
    """Of the labels of one prompt those that stand."""
    said = [entry for entry in same if entry.source != "teacher"]
    if any(entry.source == "correction" for entry in said):
        winner = _winner(said)
        return [entry for entry in same if entry.row == winner]
    return said or list(same[:1])


def _winner(said: Iterable[Entry]) -> bytes | None:
    """The answer that most keys give, of as many a correction; None if that leaves more than one."""
    corrections_first = sorted(said, key=lambda entry: entry.source != "correction")
    votes: dict[str, bytes] = {}
    for entry in corrections_first:
        votes.setdefault(entry.key, entry.row)
    corrected = {entry.row for entry in corrections_first if entry.source == "correction"}
    ranked = sorted(((count, row in corrected, row) for row, count in Counter(votes.values()).items()), reverse=True)
    (*best, first), *others = ranked
    return None if others and list(others[0][:2]) == best else first


def _without_repeats(entries: Iterable[Entry], trusted: Collection[str]) -> list[Entry]:
    rows: dict[bytes, Entry] = {}
    for entry in entries:  # the newest first, so of equals the last one stands
        other = rows.get(entry.row)
        if other is None or _rank(entry, trusted) <= _rank(other, trusted):
            rows[entry.row] = entry
    return list(rows.values())


def _rank(entry: Entry, trusted: Collection[str]) -> tuple[bool, int]:
    return entry.key not in trusted, _BEST_FIRST.index(entry.source)


def _capped(entries: Iterable[Entry], capped: Collection[str], limit: int) -> list[Entry]:
    """All entries of other keys, and of each capped one as many as it may have."""
    keys: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        keys[entry.key].append(entry)
    kept = []
    for key, own in keys.items():
        kept += sorted(own, key=_draw)[:limit] if key in capped else own
    return kept


def _draw(entry: Entry) -> bytes:
    return hashlib.blake2b(entry.record.encode(), digest_size=16, person=b"cap").digest()
