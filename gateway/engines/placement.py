"""Which replicas are home to what: rendezvous hashing, so that a replica that comes or goes moves its share alone."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

DEFAULT_HOMES = 3


def fraction(*words: str) -> float:
    """A number in [0, 1) that follows from the words alone: evenly spread, and the same in every process."""
    digest = blake2b("\0".join(words).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def ranked(name: str, replicas: Iterable[str]) -> tuple[str, ...]:
    """The replicas in the order in which they are home to `name` (highest random weight; Thaler and Ravishankar)."""
    return tuple(sorted(replicas, key=lambda replica: (-fraction(name, replica), replica)))


@lru_cache(maxsize=16_384)
def homes(name: str, replicas: frozenset[str], count: int) -> frozenset[str]:
    """The home replicas of `name`: `count` of them, or up to `DEFAULT_HOMES` if `count` is 0."""
    return frozenset(ranked(name, replicas)[: count or DEFAULT_HOMES])
