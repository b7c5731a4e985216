"""What a new dataset comes after: the datasets of the versions before it, back to the first.

What any of them was trained on says nothing about what the next one can do, so it is not held out again; and what was
held out for one of them stays held out. A version that was pushed by hand tells nothing of what it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.errors import JobFailed
from tuner.shop import AtWork


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Datasets by their digests.

    Attributes:
        replayed: whose rows are mixed in; None if there is none.
        parents: those of the versions that the new one is tied to: the one that is replayed, the one whose weights it
            goes on from, and the one that serves now and will be held against it.
        datasets: the parents, theirs, and so on.
    """

    replayed: str | None
    parents: tuple[str, ...]
    datasets: tuple[str, ...]


async def ancestry_of(work: AtWork) -> Ancestry:
    """What the dataset of a job comes after.

    Raises:
        JobFailed: a version was to be replayed that the tuner did not make.
    """
    order = work.order
    numbers = (order.data.replay_from, order.start_from, await _stable(work))
    found = {number: await _dataset_of(work, number) for number in numbers if number is not None}
    replayed = next(iter(found.values()), None)
    if order.data.replay_from is not None and replayed is None:
        version = f"{order.adapter}@{order.data.replay_from}"
        message = f"{version} was pushed by hand: nobody knows what it was trained on, to replay it"
        raise JobFailed("invalid_hyperparameters", message, "replay_from")
    parents = tuple(dict.fromkeys(digest for digest in found.values() if digest is not None))
    return Ancestry(replayed, parents, await _with_ancestors(work, parents))


async def _stable(work: AtWork) -> int | None:
    adapter = (await work.shop.registry.catalog()).adapters.get(work.order.adapter)
    return adapter.stable.number if adapter is not None and adapter.stable is not None else None


async def _dataset_of(work: AtWork, number: int) -> str | None:
    record = await work.shop.registry.version_record(work.order.adapter, number)
    digest: str | None = (record.lineage or {}).get("dataset")
    return digest


async def _with_ancestors(work: AtWork, parents: Sequence[str]) -> tuple[str, ...]:
    found = list(parents)
    for digest in found:  # which grows meanwhile
        known = await work.shop.datasets.find(work.order.adapter, digest)
        found += [parent for parent in (known.parents if known else ()) if parent not in found]
    return tuple(found)
