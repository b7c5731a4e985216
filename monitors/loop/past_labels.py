"""The labels of the past as a training would have found them at any moment, by who gave them and when.

Their texts are not read, so what contradicts or repeats another label counts here, and does not in a training.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.pairing import OWN_VARIANTS
from monitors.loop.caps import most_of_each
from monitors.loop.seen import Labels
from monitors.loop.sources import ACCEPTED_FROM, MOST_LABELS
from monitors.loop.voices import Agreement
from monitors.tables import CaptureRow, FeedbackRow, TeacherLabelRow
from registry.catalog import Adapter
from registry.policies import LabelSource, RetrainRule

_PAGE = 1000
_BEST_FIRST: tuple[LabelSource, ...] = ("correction", "accepted", "teacher")
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_TEACHER = TeacherLabelRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class PastLabel:
    """When a request got its label, whose word that is, and of which kind."""

    at: datetime
    key: str
    source: LabelSource


@dataclass
class PastLabels:
    """Goes through the labels in time, counting those since the last training.

    Attributes:
        labels: the oldest first.
        is_cut: whether there were more.
    """

    labels: Sequence[PastLabel]
    is_cut: bool = False
    _next: int = 0
    _counts: defaultdict[str, Counter[LabelSource]] = field(default_factory=lambda: defaultdict(Counter))

    def at(self, now: datetime, rule: RetrainRule, said: Agreement) -> Labels:
        """What a training would have now; moments come in their order."""
        self._advance(now)
        counts = {key: sum(found.values()) for key, found in self._counts.items()}
        capped = {key: count for key, count in counts.items() if key not in rule.trusted_keys}
        total = sum(counts.values())
        limit = most_of_each(capped.values(), total - sum(capped.values()), rule.most_of_one_key)
        by_source: Counter[str] = Counter()
        for key, found in self._counts.items():
            by_source.update(_first(found, limit if key in capped else counts[key]))
        heaviest = max(capped, key=lambda key: (capped[key], key), default=None)
        return Labels(
            rows=sum(by_source.values()),
            found=total,
            by_source=by_source,
            heaviest_key=heaviest or None,
            heaviest_share=0.0 if heaviest is None else capped[heaviest] / total,
            agreed=said.agreed,
            lone_voice=said.lone,
        )

    def begin_anew(self, now: datetime) -> None:
        """Count from here on: a training has taken what was there."""
        self._advance(now)
        self._counts.clear()

    def _advance(self, now: datetime) -> None:
        while self._next < len(self.labels) and self.labels[self._next].at <= now:
            label = self.labels[self._next]
            self._counts[label.key][label.source] += 1
            self._next += 1


async def past_labels(
    connection: AsyncConnection, adapter: Adapter, since: datetime | None, until: datetime
) -> PastLabels:
    """The labels of the policy's sources that were given after `since` and up to `until`.

    A prompt that was captured, and is old enough to have been deleted since, counts as captured.
    """
    rule, kept_from = adapter.policy.retrain, until - timedelta(days=adapter.monitoring.capture_days)
    found: list[PastLabel] = []
    if {"correction", "accepted"} & set(rule.sources):
        firsts: dict[str, PastLabel] = {}
        async for rows in _pages(connection, _said(adapter.name, since, until, kept_from)):
            _add_firsts(firsts, rows, rule)
        found += firsts.values()
    if "teacher" in rule.sources:
        async for rows in _pages(connection, _taught(adapter.name, since, until)):
            found += [PastLabel(row.created_at, row.key_id, "teacher") for row in rows]
    ordered = await asyncio.to_thread(sorted, found, key=lambda label: label.at)
    return PastLabels(ordered, is_cut=len(found) >= MOST_LABELS)


async def _pages(connection: AsyncConnection, query: Any) -> AsyncIterator[Sequence[Row[Any]]]:
    """The rows, a page at a time, so that whatever else the process does comes between."""
    async with connection.stream(query) as rows:
        async for page in rows.partitions(_PAGE):
            yield page


def _first(found: Mapping[LabelSource, int], limit: int) -> Mapping[str, int]:
    """Of one key's labels as many as it may have, the best kinds first."""
    taken: dict[str, int] = {}
    for source in _BEST_FIRST:
        if count := min(found.get(source, 0), limit - sum(taken.values())):
            taken[source] = count
    return taken


def _add_firsts(found: dict[str, PastLabel], rows: Iterable[Row[Any]], rule: RetrainRule) -> None:
    """Add the first label of each request, of the wanted kinds; rows come the oldest first."""
    for row in rows:
        source: LabelSource = "correction" if row.corrects else "accepted"
        if source in rule.sources and row.record_id not in found:
            found[row.record_id] = PastLabel(row.created_at, row.key_id, source)


def _said(adapter: str, since: datetime | None, until: datetime, kept_from: datetime) -> Any:
    columns = _FEEDBACK.c
    corrects = columns.correction.is_not(None)
    accepts = or_(columns.score >= ACCEPTED_FROM, and_(columns.score.is_(None), columns.thumb == "up"))
    is_label = or_(corrects, and_(accepts, columns.variant.in_(OWN_VARIANTS)))
    is_usable = or_(_CAPTURES.c.id.is_not(None), columns.created_at < kept_from)
    query = (
        select(columns.record_id, columns.key_id, columns.created_at, corrects.label("corrects"))
        .select_from(_FEEDBACK.outerjoin(_CAPTURES, _CAPTURES.c.id == columns.record_id))
        .where(columns.adapter == adapter, columns.created_at <= until, is_label, is_usable)
    )
    if since is not None:
        query = query.where(columns.created_at > since)
    newest = query.order_by(columns.created_at.desc()).limit(MOST_LABELS).subquery()
    return select(newest).order_by(newest.c.created_at)


def _taught(adapter: str, since: datetime | None, until: datetime) -> Any:
    columns = _TEACHER.c
    query = select(columns.key_id, columns.created_at).where(
        columns.adapter == adapter, columns.answer.is_not(None), columns.created_at <= until
    )
    if since is not None:
        query = query.where(columns.created_at > since)
    return query.order_by(columns.created_at.desc()).limit(MOST_LABELS)
