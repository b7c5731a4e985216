"""Which test tells whether an adapter has lost quality: that of the stable version, by its quality rule."""

from dataclasses import dataclass

from monitors.judging.pairing import BASE, LEVEL
from registry.catalog import Adapter, Deployment


@dataclass(frozen=True, slots=True)
class WatchedTest:
    """A test as it stands in the table of evidence.

    Attributes:
        version, scorer, against: its names there.
        flipped: whether its differences say how much better the version before is than the stable one.
    """

    version: int
    scorer: str
    against: str
    flipped: bool = False


def watched_test(adapter: Adapter, deployment: Deployment | None) -> WatchedTest | None:
    """The test that the adapter's quality rule watches while that is its deployment; None if there is none.

    The incumbent of a stable version is the one that served before it. Observations of the two stand under the one
    that is not stable (`monitors.judging.pairing`).
    """
    rule = adapter.monitoring.quality
    stable = None if deployment is None else adapter.versions.get(deployment.stable)
    if deployment is None or stable is None:
        return None
    if rule.against != "incumbent":
        return WatchedTest(stable.number, rule.scorer, LEVEL if rule.against == "level" else BASE)
    if deployment.previous is None:
        return None
    return WatchedTest(deployment.previous, rule.scorer, stable.engine_name, flipped=True)
