"""What leaves an engine: rules over what is loaded in it, what is deployed, and what is used, as plain functions."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from gateway.directory import Directory
from registry.catalog import Version

UNKNOWN_GRACE_S = 2.0
"""Another gateway may have loaded what it has just registered, and this one not have heard of it yet."""
NEWS_S = 5.0
"""How long it takes until gateways have told each other what they use."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in one engine that no request of this gateway holds.

    Attributes:
        used_at: engine name -> when it was last used here, or first seen if only others use it; monotonic seconds.
        others: those that this gateway has not used itself.
        heat: how much a name is used now, over all gateways.
        now: monotonic seconds.
    """

    used_at: Mapping[str, float]
    others: Collection[str]
    heat: Callable[[str], float]
    now: float


def coldest(loaded: Loaded, directory: Directory, here: Collection[str], slots: int) -> str | None:
    """Which version makes room; None if all are needed.

    What is deployed stays as long as all that is deployed fits; the same for what a rollback would need. If it does
    not fit, only use counts. What another gateway has just loaded is taken for used.

    Args:
        loaded: the candidates.
        directory: what is deployed, and what a rollback would need.
        here: all that is in the engine.
        slots: how many versions it should hold.
    """
    deployed, warm = directory.deployed & set(here), directory.warm & set(here)
    kept = deployed if len(deployed) < slots else frozenset[str]()
    last = warm if len(deployed | warm) < slots else frozenset[str]()

    def order(name: str) -> tuple[bool, bool, float, float, str]:
        since = loaded.used_at[name]
        is_news = name in loaded.others and loaded.now - since < NEWS_S
        return name in last, is_news, loaded.heat(name), since, name

    return min(loaded.used_at.keys() - kept, key=order, default=None)


def misplaced(name: str, path: str, loaded: Loaded, directory: Directory, idle_s: float) -> str | None:
    """Why a name that the engine loaded from `path` should not be there; None if it should, or that is not certain."""
    catalog = directory.catalog
    version = catalog.version(name)
    unused_s = loaded.now - loaded.used_at.get(name, loaded.now)
    if version is None and catalog.knows(name):
        return "archived"
    if version is None:
        return "unknown" if directory.reachable and unused_s > UNKNOWN_GRACE_S else None
    if not is_content(path, version):
        return "other_content"
    if name in directory.deployed or name in directory.warm:
        return None
    return "drained" if unused_s > idle_s and loaded.heat(name) < 1.0 else None


def is_content(path: str, version: Version) -> bool:
    """Whether a folder that an engine loaded from is the version's: its name is the content's digest."""
    return PurePath(path).name == version.digest
