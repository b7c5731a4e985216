"""How good an adapter's versions are, beside the base model and beside each other."""

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.monitoring import known_adapter
from gateway.directory import Directory
from gateway.refusals import refusals
from monitors.judging.pairing import BASE
from monitors.judging.report import (
    DifferenceVerdict,
    LevelVerdict,
    StoredEvidence,
    difference_verdict,
    level_verdict,
    stored_evidence,
    watched_summary,
)
from registry.catalog import Adapter
from registry.monitoring import Against, QualityRule


class AnewShape(msgspec.Struct, frozen=True):
    """When a test last began anew, and why."""

    at: datetime
    why: str


class WatchShape(msgspec.Struct, frozen=True):
    """How the scores are held against the level that is expected of them.

    They are held `against` that as they are, or as differences to those of the base model or the incumbent. `level` is
    null while it is being taken from the first `to_gather` observations, of which `gathered` are there. An alarm is
    raised once `cusum_ratio` reaches 1, and stands until the rule changes.
    """

    against: Against
    level: float | None
    gathered: int
    to_gather: int
    drop: float
    alarm_every: int
    cusum_ratio: float
    alarm: bool


class DifferenceShape(msgspec.Struct, frozen=True):
    """The mean difference of a version's scores to those of the base model or another version, on the same requests.

    `against` is `base` or an engine name. `low` to `high` holds the mean at all times but with probability alpha;
    `recent` is over about the newest hundred. `better` or `worse` is established once its evidence reaches
    `evidence_needed`, which stays so.
    """

    against: str
    observations: int
    mean: float | None
    low: float
    high: float
    recent: float | None
    evidence_better: float
    evidence_worse: float
    evidence_needed: float
    verdict: DifferenceVerdict
    began_anew: AnewShape | None
    updated_at: datetime


class ScorerShape(msgspec.Struct, frozen=True):
    """A version's own scores by one scorer: how many sessions, their mean in [0, 1] with its interval, and what of it.

    `watch` is null unless the quality rule names the scorer; it may be over differences.
    """

    scorer: str
    observations: int
    mean: float | None
    low: float
    high: float
    recent: float | None
    watch: WatchShape | None
    verdict: LevelVerdict
    differences: list[DifferenceShape]
    began_anew: AnewShape | None
    updated_at: datetime | None


class VersionQualityShape(msgspec.Struct, frozen=True):
    """What is known of one version; `serves` says what it is now, null for a version that is not deployed."""

    version: int
    engine_name: str
    serves: Literal["stable", "canary"] | None
    verdict: LevelVerdict
    scorers: list[ScorerShape]


class QualityShape(msgspec.Struct, frozen=True):
    """How good an adapter's versions are, the newest first, and the rule that they are held against."""

    adapter: str
    rule: QualityRule
    versions: list[VersionQualityShape]


class QualityController(Controller):
    """The quality of adapters."""

    path = "/adapters/{name:str}/quality"
    tags = ("Judging",)

    @get("/", summary="Show how good an adapter's versions are", responses=refusals(404))
    async def show(
        self,
        name: FromPath[str],
        directory: NamedDependency[Directory],
        database: NamedDependency[AsyncEngine],
    ) -> QualityShape:
        """Scores with their intervals, differences to the base and to other versions, and what they establish."""
        adapter = known_adapter(directory, name)
        evidence = await stored_evidence(database, name)
        versions: dict[int, list[StoredEvidence]] = {number: [] for number in _deployed(adapter)}
        for each in evidence:
            versions.setdefault(each.version, []).append(each)
        watched = {number: watched_summary(adapter, number, evidence) for number in versions}
        shapes = [
            _version(adapter, number, versions[number], watched[number]) for number in sorted(versions, reverse=True)
        ]
        return QualityShape(name, adapter.monitoring.quality, shapes)


def _deployed(adapter: Adapter) -> dict[int, Literal["stable", "canary"]]:
    """The versions that serve clients."""
    if adapter.deployment is None:
        return {}
    found: dict[int, Literal["stable", "canary"]] = {adapter.deployment.stable: "stable"}
    if adapter.deployment.canary:
        found.setdefault(adapter.deployment.canary.version, "canary")
    return found


def _version(
    adapter: Adapter, number: int, evidence: list[StoredEvidence], watched: Mapping[str, Any] | None
) -> VersionQualityShape:
    known = adapter.versions.get(number)
    rule = adapter.monitoring.quality
    grouped = groupby(sorted(evidence, key=lambda each: each.scorer), key=lambda each: each.scorer)
    scorers = [
        _scorer(name, list(tests), rule, watched.get("watch") if watched and name == rule.scorer else None)
        for name, tests in grouped
    ]
    return VersionQualityShape(
        version=number,
        engine_name=known.engine_name if known else f"{adapter.name}@{number}",
        serves=_deployed(adapter).get(number),
        verdict="not enough data" if watched is None else level_verdict(watched),
        scorers=scorers,
    )


def _scorer(name: str, tests: list[StoredEvidence], rule: QualityRule, watch: Mapping[str, Any] | None) -> ScorerShape:
    level = next((test for test in tests if test.is_level), None)
    summary: Mapping[str, Any] = level.summary if level else _NOTHING
    return ScorerShape(
        scorer=name,
        observations=summary["observations"],
        mean=summary["mean"],
        low=summary["low"],
        high=summary["high"],
        recent=summary["recent"],
        watch=_watch(watch),
        verdict=level_verdict(summary) if level else "not enough data",
        differences=[_difference(test, rule) for test in _base_first(tests)],
        began_anew=_anew(level.anew) if level else None,
        updated_at=level.updated_at if level else None,
    )


_NOTHING: Mapping[str, Any] = {"observations": 0, "mean": None, "low": 0.0, "high": 1.0, "recent": None}


def _base_first(tests: list[StoredEvidence]) -> list[StoredEvidence]:
    differences = [test for test in tests if not test.is_level]
    return sorted(differences, key=lambda test: (test.against != BASE, test.against))


def _difference(test: StoredEvidence, rule: QualityRule) -> DifferenceShape:
    summary = test.summary
    return DifferenceShape(
        against=test.against,
        observations=summary["observations"],
        mean=summary["mean"],
        low=summary["low"],
        high=summary["high"],
        recent=summary["recent"],
        evidence_better=summary["evidence_better"],
        evidence_worse=summary["evidence_worse"],
        evidence_needed=summary["evidence_needed"],
        verdict=difference_verdict(summary, rule.drop),
        began_anew=_anew(test.anew),
        updated_at=test.updated_at,
    )


def _watch(watch: Mapping[str, Any] | None) -> WatchShape | None:
    if watch is None:
        return None
    return WatchShape(
        against=watch.get("against", "level"),
        level=watch["level"],
        gathered=watch["gathered"],
        to_gather=watch["to_gather"],
        drop=watch["drop"],
        alarm_every=watch["alarm_every"],
        cusum_ratio=watch["ratio"],
        alarm=watch["alarm"],
    )


def _anew(anew: Mapping[str, str] | None) -> AnewShape | None:
    return None if anew is None else AnewShape(datetime.fromisoformat(anew["at"]), anew["why"])
