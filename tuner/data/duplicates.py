"""Rows that say what an earlier row says already.

A near duplicate is a row whose prompt and whose answers are both alike those of an earlier row: their Jaccard
similarity, over pieces of 5 bytes of the normalized text, reaches the threshold. Alike prompts with unlike answers
teach a difference, so they stay.

Pairs are found by MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3), then held against the threshold exactly. Pieces that many prompts share, such as an
instruction, do not count: they would make all rows with a long instruction alike.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from monitors.teaching.fingerprints import answer_texts, prompt_text
from monitors.teaching.rows import Row

Pieces = NDArray[np.uint64]
_PIECE_BYTES = 5
_COUNTERS = 1 << 20
_FEWEST_SHARING = 5
_SHARING = 20
"""A piece in more than one of so many prompts, and in more than `_FEWEST_SHARING`, is common."""
_SEED = 1
_WEIGHTS = (0.02, 0.98)
"""What false candidates and missed pairs cost: at a similarity of 0.9 as the threshold, 4% of such pairs are missed."""
_MOST_THRESHOLD = 0.98
_MOST_COMPARED = 32
"""Rows of a group that others are held against; more than so many are alike in their prompts alone."""
_Group = tuple[int, int]


def near_duplicates(count: int, row: Callable[[int], Row], threshold: float) -> list[int]:
    """The numbers of the rows that are near duplicates of an earlier one that is none itself.

    Args:
        count: how many rows there are.
        row: reads the row of a number below `count`; each is read about twice, and never many at once.
        threshold: the Jaccard similarity from which two texts are alike, from 0.5 to 1.
    """
    common = _common_pieces(count, row)
    groups = _groups(_bands(count, row, common, threshold))
    alike = _Comparison(row, common, threshold)
    kept: dict[_Group, list[int]] = defaultdict(list)
    duplicates = []
    for number in sorted(groups):
        earlier = sorted({each for group in groups[number] for each in kept[group]})
        if any(alike(each, number) for each in earlier):
            duplicates.append(number)
            continue
        for group in groups[number]:
            if len(kept[group]) < _MOST_COMPARED:
                kept[group].append(number)
    return duplicates


def pieces(text: str) -> Pieces:
    """The distinct runs of `_PIECE_BYTES` bytes in a text, hashed to 32 bits each."""
    content = np.frombuffer(text.encode().ljust(_PIECE_BYTES, b"\0"), dtype=np.uint8).astype(np.uint64)
    count = len(content) - _PIECE_BYTES + 1
    runs = np.zeros(count, dtype=np.uint64)
    for place in range(_PIECE_BYTES):
        runs |= content[place : place + count] << np.uint64(8 * place)
    # multiplicative hashing (Knuth, volume 3, 6.4): the high bits of a product are well mixed
    return np.unique((runs * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32))


def similarity(one: Pieces, other: Pieces) -> float:
    """The Jaccard similarity of two sets of pieces; 0 if both are empty."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    together = len(one) + len(other) - shared
    return shared / together if together else 0.0


class _Comparison:
    """Holds two rows against the threshold."""

    def __init__(self, row: Callable[[int], Row], common: NDArray[np.bool_], threshold: float) -> None:
        self._row = lru_cache(maxsize=1024)(row)  # a row that begins a group is compared with each of the others
        self._common = common
        self._threshold = threshold

    def __call__(self, first: int, second: int) -> bool:
        one, other = self._row(first), self._row(second)
        answers = zip(answer_texts(one), answer_texts(other), strict=True)
        if not all(self._alike(pieces(mine), pieces(yours)) for mine, yours in answers):
            return False
        mine, yours = pieces(prompt_text(one)), pieces(prompt_text(other))
        return self._alike(mine, yours) and self._alike(_own(mine, self._common), _own(yours, self._common))

    def _alike(self, one: Pieces, other: Pieces) -> bool:
        return similarity(one, other) >= self._threshold


def _common_pieces(count: int, row: Callable[[int], Row]) -> NDArray[np.bool_]:
    """Which counters belong to pieces that many prompts share; a few rarer pieces fall into the same counters."""
    counters = np.zeros(_COUNTERS, dtype=np.uint32)
    for number in range(count):
        counters[np.unique(pieces(prompt_text(row(number))) % np.uint64(_COUNTERS))] += 1
    return counters > max(_FEWEST_SHARING, count // _SHARING)


def _own(found: Pieces, common: NDArray[np.bool_]) -> Pieces:
    """The pieces that are not common."""
    own: Pieces = found[~common[found % np.uint64(_COUNTERS)]]
    return own


def _bands(count: int, row: Callable[[int], Row], common: NDArray[np.bool_], threshold: float) -> NDArray[np.uint64]:
    """A hash of each band of each prompt's MinHash, as (rows, bands); 0 for a prompt that is all common pieces."""
    # It knows how many bands of how many hashes miss few pairs; those that are no pair cost a comparison alone.
    lsh = MinHashLSH(threshold=min(threshold, _MOST_THRESHOLD), weights=_WEIGHTS)
    sketch = MinHash(num_perm=lsh.h, seed=_SEED, hashfunc=int, scheme="affine32")
    weights = np.random.default_rng(_SEED).integers(1, 2**63, size=lsh.r, dtype=np.uint64) | np.uint64(1)
    bands = np.zeros((count, lsh.b), dtype=np.uint64)
    for number in range(count):
        own = _own(pieces(prompt_text(row(number))), common)
        if len(own):
            sketch.clear()
            sketch.update_batch(own)
            cut = np.asarray(sketch.hashvalues, dtype=np.uint64)[: lsh.b * lsh.r].reshape(lsh.b, lsh.r)
            bands[number] = (cut * weights).sum(axis=1, dtype=np.uint64) | np.uint64(1)
    return bands


def _groups(bands: NDArray[np.uint64]) -> dict[int, list[_Group]]:
    """The rows that share a band with another, each with the groups that it is in."""
    groups: dict[int, list[_Group]] = defaultdict(list)
    for band, hashes in enumerate(bands.T):
        _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
        for number in np.flatnonzero((sizes[group] > 1) & (hashes != 0)).tolist():
            groups[number].append((band, int(group[number])))
    return groups
