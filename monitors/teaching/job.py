"""Has a teacher answer the prompts of an adapter that lost quality, so that a training can learn from its answers.

It is asked only where the policy wants a teacher's labels and the alarm of lost quality stands, for labels of a world
that has not changed teach nothing; and for no more prompts since the last training than the least rows of one. The
newest prompts come first, one of each API key in turn, each prompt once. Each answer is written down as soon as it is
there, with its cost. What a month may cost is in the settings; a request is sent only if the most that it may cost is
left of that.
"""

import dataclasses
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice, zip_longest
from typing import Any

import httpx
import msgspec
from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.golden import Message
from monitors.judging.pairing import OWN_VARIANTS
from monitors.loop.sources import ACCEPTED_FROM
from monitors.loop.state import LoopState
from monitors.loop.voices import fall_of
from monitors.tables import CaptureRow, FeedbackRow, LoopRow, RequestRow, TeacherLabelRow
from monitors.teaching.allowance import Pacer
from monitors.teaching.checking import problem_of
from monitors.teaching.fingerprints import fingerprint
from monitors.teaching.prompts import PromptRow, answered, captured_messages
from monitors.teaching.teacher import Teacher, TeacherAway, TeacherChoice, TeacherFailed, TeacherStopped
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.database import writing

log = logging.getLogger(__name__)

_LOOKED_AT = 2_000
_REST = timedelta(minutes=10)
_PLACEHOLDER = Message("assistant", "-")
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_LOOPS = LoopRow.__table__  # type: ignore[attr-defined]
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]
_TEACHER = TeacherLabelRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Question:
    """A captured prompt to ask: the capture's id, the key that sent it, its hash, and its messages."""

    adapter: str
    record: str
    key: str
    prompt: str
    messages: list[Message]


class TeachingJob:
    """Asks for about a minute at a time. Without a teacher in the settings it does nothing.

    A teacher that answers nobody, or would cost too much, is left alone for a while.
    """

    name = "teaching"
    every_s = 10.0

    def __init__(self, workshop: Workshop, transport: httpx.AsyncBaseTransport | None = None) -> None:
        settings = workshop.settings
        self._database = workshop.database
        self._transport = transport
        self._pacer = Pacer(settings.teacher_per_minute)
        self._at_once = max(1, int(settings.teacher_per_minute))
        self._budget = settings.teacher_budget
        self._rests_until: datetime | None = None
        self._choice = TeacherChoice(
            settings.teacher_url,
            settings.teacher_model,
            settings.teacher_api_key,
            max_tokens=settings.teacher_max_tokens,
            price_in=settings.teacher_price_in,
            price_out=settings.teacher_price_out,
        )

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Ask for each adapter that needs it, in turn, until a minute's worth was asked."""
        wanting = [adapter for adapter in catalog.adapters.values() if _wants_teacher(adapter)]
        if self._rests_until is not None and now < self._rests_until:
            return
        self._rests_until = None
        if not wanting or not self._choice.url or not self._choice.model:
            return
        async with self._database.connect() as connection:
            left = self._budget - await _spent(connection, now)
        needed = [await self._questions(adapter, now) for adapter in wanting]
        turns = list(filter(None, chain.from_iterable(zip_longest(*needed))))[: self._at_once]
        if turns:
            choice = dataclasses.replace(self._choice, max_cost=left)
            async with Teacher(choice, self._transport, self._pacer) as teacher:
                await self._ask(teacher, turns, now)

    async def _ask(self, teacher: Teacher, questions: Iterable[Question], now: datetime) -> None:
        began = time.monotonic()
        for question in questions:
            before = teacher.budget.spent
            answer = await self._answer(teacher, question, now)
            cost = teacher.budget.spent - before
            if answer is not None or cost or self._rests_until is None:
                at = now + timedelta(seconds=time.monotonic() - began)
                await self._keep([_row(question, at) | {"answer": answer, "cost": cost}])
            if self._rests_until is not None:
                return

    async def _answer(self, teacher: Teacher, question: Question, now: datetime) -> dict[str, Any] | None:
        """The teacher's message; None if it has none, which may be the prompt's fault, or mean that it needs a rest."""
        try:
            return dict((await teacher.answer(PromptRow(question.messages).asked)).message)
        except (TeacherAway, TeacherStopped) as away:
            self._rests_until = now + _REST
            log.warning("the teacher is not asked for %d minutes: %s", _REST.total_seconds() / 60, away)
        except TeacherFailed as failed:
            log.info("the teacher has no answer to a prompt of %s: %s", question.adapter, failed)
        return None

    async def _questions(self, adapter: Adapter, now: datetime) -> list[Question]:
        """What is to be asked next for an adapter; captures that give no question are written down as done."""
        async with self._database.connect() as connection:
            since, room = await _room(connection, adapter)
            if not room:
                return []
            captured = await _newest(connection, adapter, since, min(room, self._at_once))
            known = await _known(connection, adapter, [question.prompt for question in captured])
        questions: dict[str, Question] = {}
        for question in captured:
            if question.messages and question.prompt not in known:
                questions.setdefault(question.prompt, question)
        done = [question for question in captured if question not in questions.values()]
        await self._keep([_row(question, now) for question in done])
        return list(questions.values())

    async def _keep(self, rows: list[dict[str, Any]]) -> None:
        """Write down what came of prompts; one without an answer is not asked again."""
        if not rows:
            return
        insert = postgresql.insert if self._database.dialect.name == "postgresql" else sqlite.insert
        async with writing(self._database) as connection:
            await connection.execute(insert(_TEACHER).on_conflict_do_nothing(), rows)


def _wants_teacher(adapter: Adapter) -> bool:
    return adapter.policy.mode != "off" and "teacher" in adapter.policy.retrain.sources


def _row(question: Question, now: datetime) -> dict[str, Any]:
    return {
        "record_id": question.record,
        "adapter": question.adapter,
        "key_id": question.key,
        "prompt": question.prompt,
        "answer": None,
        "cost": 0.0,
        "created_at": now,
    }


async def _spent(connection: AsyncConnection, now: datetime) -> float:
    """What the teacher cost this month."""
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    total = select(func.sum(_TEACHER.c.cost)).where(_TEACHER.c.created_at >= month)
    return float((await connection.execute(total)).scalar() or 0.0)


async def _room(connection: AsyncConnection, adapter: Adapter) -> tuple[datetime | None, int]:
    """Since when prompts are asked, and how many more; none unless quality was lost and nothing is under way."""
    stored = (await connection.execute(select(_LOOPS.c.state).where(_LOOPS.c.adapter == adapter.name))).scalar()
    state = msgspec.convert(stored or {}, LoopState)
    if state.phase != "watching" or await fall_of(connection, adapter) is None:
        return None, 0
    columns = _TEACHER.c
    asked = select(func.count()).where(columns.adapter == adapter.name, columns.answer.is_not(None))
    if state.labels_until is not None:
        asked = asked.where(columns.created_at > state.labels_until)
    done = (await connection.execute(asked)).scalar_one()
    return state.labels_until, max(0, adapter.policy.retrain.least_rows - done)


async def _newest(connection: AsyncConnection, adapter: Adapter, since: datetime | None, most: int) -> list[Question]:
    """Captured prompts without a label, the newest of each key in turn."""
    columns = _CAPTURES.c
    query = (
        select(columns.id, _REQUESTS.c.key_id)
        .select_from(_CAPTURES.outerjoin(_REQUESTS, _REQUESTS.c.id == columns.id))
        .where(columns.adapter == adapter.name, columns.variant.in_(OWN_VARIANTS))
        .where(~exists().where(_TEACHER.c.record_id == columns.id), ~exists().where(_is_label(columns.id)))
    )
    if since is not None:
        query = query.where(columns.created_at > since)
    keys: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in await connection.execute(query.order_by(columns.created_at.desc(), columns.id.desc()).limit(_LOOKED_AT)):
        keys[row.key_id or ""].append((row.id, row.key_id or ""))
    chosen = dict(islice(filter(None, chain.from_iterable(zip_longest(*keys.values()))), most))
    whole = await connection.execute(select(columns.id, columns.prompt).where(columns.id.in_(chosen)))
    prompts = {row.id: row.prompt for row in whole}
    return [_question(adapter.name, record, key, prompts.get(record)) for record, key in chosen.items()]


def _is_label(record: Any) -> Any:
    columns = _FEEDBACK.c
    says = or_(columns.correction.is_not(None), columns.thumb == "up", columns.score >= ACCEPTED_FROM)
    return and_(columns.record_id == record, says)


def _question(adapter: str, record: str, key: str, prompt: Any) -> Question:
    """The question that a capture is; without messages if it cannot be asked."""
    messages = captured_messages(prompt)
    row = answered(messages, _PLACEHOLDER, "teacher") if messages else None
    if messages is None or row is None or problem_of(row):
        return Question(adapter, record, key, "", [])
    return Question(adapter, record, key, fingerprint(row).prompt.hex(), messages)


async def _known(connection: AsyncConnection, adapter: Adapter, prompts: Collection[str]) -> set[str]:
    """Those prompts that were asked before, by their hashes."""
    columns = _TEACHER.c
    asked = select(columns.prompt).where(columns.adapter == adapter.name, columns.prompt.in_(set(prompts) - {""}))
    return set((await connection.execute(asked)).scalars())
