"""What the watch over the stable version says, read from the evidence that `monitors.judging.quality` keeps."""

from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.evidence import follows
from monitors.judging.watched import WatchedTest, watched_test
from monitors.loop.seen import Quality
from monitors.tables import EvidenceRow
from registry.catalog import Adapter, Deployment
from registry.monitoring import Against, QualityRule

_EVIDENCE = EvidenceRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


async def seen_quality(connection: AsyncConnection, adapter: Adapter, deployment: Deployment | None) -> Quality | None:
    """How the stable version does by the quality rule; None while there is no observation of it.

    What was found by another rule than the present one is left out until the tests follow the new one.
    """
    test = watched_test(adapter, deployment)
    if test is None or deployment is None:
        return None
    columns = _EVIDENCE.c
    which = (
        columns.adapter == adapter.name,
        columns.version == test.version,
        columns.scorer == test.scorer,
        columns.against == test.against,
    )
    row = (await connection.execute(select(columns.state, columns.updated_at).where(*which))).first()
    if row is None:
        return None
    rule = adapter.monitoring.quality
    summary = row.state["summary"]
    shown = summary if follows(row.state.get("watch"), rule) else summary | {"watch": None}
    return replace(quality_of(deployment.stable, test, shown, rule), observed_at=row.updated_at)


def quality_of(version: int, test: WatchedTest, summary: dict[str, Any], rule: QualityRule) -> Quality:
    """The numbers of the stable version; of differences the scorer's name says what they are to."""
    sign = -1 if test.flipped else 1
    recent, ends = summary["recent"], sorted((sign * summary["low"], sign * summary["high"]))
    watch = summary.get("watch")
    found = {
        "observations": summary["observations"],
        "recent": None if recent is None else sign * recent,
        "low": ends[0],
        "high": ends[1],
    }
    if watch is not None:
        found |= {name: watch[name] for name in ("level", "ratio", "alarm")}
        found["alarms"] = watch.get("alarms", int(watch["alarm"]))
    return Quality(version, test.scorer + _beside(test, rule.against), **found)


def _beside(test: WatchedTest, against: Against) -> str:
    """What the scores are held against; alarms are counted for each such thing alone."""
    if against == "incumbent":
        return f" beside version {test.version}"
    return " beside the base model" if against == "base" else ""
