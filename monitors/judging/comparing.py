"""Has the judge compare captured answers with those of the base model, or of another version, to the same requests.

What the judge was not able to say is asked again, and never counts as a tie. While it answers nothing at all the work
stands still; a pair that it refuses while it answers others is given up after some tries.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.backlog import Backlog
from monitors.judging.captured import captures_of
from monitors.judging.choices import JUDGE, JudgeOptions, judge_options
from monitors.judging.judge import Judge, is_drawn
from monitors.judging.pairing import BASE, OWN_VARIANTS, SHADOW
from monitors.judging.scoring import NewScore, engine_names, write_scores
from monitors.tables import CaptureRow, ScoreRow
from monitors.watch.client import GatewayRefused
from monitors.watch.work import Workshop
from registry.catalog import Catalog
from registry.database import writing
from registry.errors import InvalidValue

log = logging.getLogger(__name__)

_BATCH = 20
_TRIES = 3
_LONGEST_BACKLOG = timedelta(days=1)
"""Each pair costs two requests: a judge that was away for a month is not asked about all of it."""
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_SCORES = ScoreRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Duel:
    """Two answers to one request; `tested` is the one that a win counts for."""

    id: str
    tested: Row[Any]
    other: Row[Any]
    against: str
    criteria: str


class JudgingJob:
    """Asks the judge about new pairs; does nothing without one."""

    name = "judging"

    def __init__(self, workshop: Workshop) -> None:
        settings = workshop.settings
        self.every_s = settings.score_every_s
        self._database = workshop.database
        self._unreadable = workshop.metrics.judge_unreadable
        self._judge = self._judge_of(workshop)
        self._shadows = Backlog(self.name, _CAPTURES, only=_CAPTURES.c.variant == SHADOW, longest=_LONGEST_BACKLOG)
        self._refused: Counter[str] = Counter()
        self._told = False

    def _judge_of(self, workshop: Workshop) -> Judge | None:
        model = workshop.settings.judge_model
        return Judge(workshop.judge, model, self._note_unreadable) if workshop.judge and model else None

    def _note_unreadable(self) -> None:
        self._unreadable.inc()
        if not self._told:
            log.warning("the judge's model answers in a way that cannot be read as a verdict; that counts as a tie")
        self._told = True

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Ask about all that is new.

        Raises:
            GatewayRefused: the judge answers nothing now.
        """
        while self._judge is not None and await self._next(self._judge, catalog, now):
            pass

    async def _next(self, judge: Judge, catalog: Catalog, now: datetime) -> bool:
        """Judge the next pairs; whether to go on."""
        async with self._database.connect() as connection:
            shadows = await self._shadows.take(connection, _BATCH, now)
            duels = await _duels(connection, shadows, catalog)
        asked = (
            judge.compare(duel.tested.prompt, duel.tested.answer, duel.other.answer, duel.criteria) for duel in duels
        )
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
        judged = {
            duel.id: (duel, value) for duel, value in zip(duels, verdicts, strict=True) if isinstance(value, float)
        }
        failed = {
            duel.id: value for duel, value in zip(duels, verdicts, strict=True) if isinstance(value, BaseException)
        }
        pending = self._still_pending(failed, answers=bool(judged))
        done = [row for row in shadows if row.id not in pending]
        if done:
            await self._write([_score(duel, value) for duel, value in judged.values()], done, pending, catalog, now)
        if failed and not judged:
            raise next(iter(failed.values()))
        return bool(shadows) and not pending

    def _still_pending(self, failed: Mapping[str, BaseException], *, answers: bool) -> set[str]:
        """The pairs to ask about again. A try counts against a pair only if the judge answered others meanwhile."""
        for pair, error in failed.items():
            if not isinstance(error, GatewayRefused):
                raise error
            self._refused[pair] += answers
        given_up = {pair for pair in failed if self._refused[pair] >= _TRIES}
        for pair in given_up:
            log.warning("the judge refused a pair %d times (%s); it is left out", _TRIES, failed[pair])
            del self._refused[pair]
        return failed.keys() - given_up

    async def _write(
        self, scores: Sequence[NewScore], done: Sequence[Row[Any]], pending: set[str], catalog: Catalog, now: datetime
    ) -> None:
        """Write verdicts. The cursor stays while a pair is pending, so that a restart finds it again."""
        async with writing(self._database) as connection:
            await write_scores(connection, scores, {score.record_id for score in scores}, catalog, now)
            if not pending:
                await self._shadows.move(connection, done, now)
        self._shadows.confirm(done)


async def _duels(connection: AsyncConnection, shadows: Sequence[Row[Any]], catalog: Catalog) -> list[_Duel]:
    """The pairs of these shadows that are to be judged and were not yet."""
    wanted = [row for row in shadows if row.answer is not None and _options(row, catalog) is not None]
    captures = await captures_of(connection, {row.request_id for row in wanted})
    name = engine_names(catalog)
    duels = []
    for row in wanted:
        same = [each for each in captures.get(row.request_id, ()) if _is_original(each, row)]
        options = _options(row, catalog)
        if len(same) != 1 or same[0].version == row.version or options is None:
            continue
        own = same[0]
        if row.version and own.variant == "stable":
            duels.append(_Duel(row.id, row, own, name(row.adapter, own.version), options.criteria))
        else:
            against = name(row.adapter, row.version) if row.version else BASE
            duels.append(_Duel(row.id, own, row, against, options.criteria))
    judged = await _judged(connection, {duel.tested.id for duel in duels})
    return [duel for duel in duels if (duel.tested.id, duel.against) not in judged]


def _options(row: Row[Any], catalog: Catalog) -> JudgeOptions | None:
    """How the judge is to look at the answers to a request; None if it is not."""
    adapter = catalog.adapters.get(row.adapter)
    choice = next((each for each in adapter.monitoring.scorers if each.scorer == JUDGE), None) if adapter else None
    if choice is None:
        return None
    try:
        options = judge_options(choice)
    except InvalidValue:
        return None
    return options if is_drawn(row.request_id, options.share) else None


def _is_original(capture: Row[Any], shadow: Row[Any]) -> bool:
    """Whether it is what a client got in words where the shadow was made."""
    same = (capture.adapter, capture.prompt) == (shadow.adapter, shadow.prompt)
    return same and capture.variant in OWN_VARIANTS and capture.answer is not None


async def _judged(connection: AsyncConnection, records: set[str]) -> set[tuple[str, str]]:
    columns = _SCORES.c
    query = select(columns.record_id, columns.against).where(columns.record_id.in_(records), columns.scorer == JUDGE)
    return {(row.record_id, row.against) for row in await connection.execute(query)}


def _score(duel: _Duel, value: float) -> NewScore:
    tested = duel.tested
    return NewScore(
        record_id=tested.id,
        request_id=tested.request_id,
        adapter=tested.adapter,
        version=tested.version,
        variant=tested.variant,
        session=tested.session,
        scorer=JUDGE,
        against=duel.against,
        value=value,
        source=JUDGE,
    )
