"""Where labels come from: what clients said of captured answers, and what a teacher answered to captured prompts.

Of each request one label stands: its newest correction, else its newest opinion, if that accepts the answer. Labels are
read as a stream, the newest first, with the prompt beside each; a prompt that retention has deleted is None.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.golden import Message
from monitors.judging.pairing import OWN_VARIANTS
from monitors.tables import CaptureRow, FeedbackRow, TeacherLabelRow
from monitors.teaching.checking import problem_of
from monitors.teaching.prompts import answered, captured_messages
from monitors.teaching.rows import SupervisedRow
from registry.policies import LabelSource, RetrainRule

MOST_LABELS = 100_000
"""The newest so many of what people said, and of what the teacher did, are looked at; of one key at most its share."""
ACCEPTED_FROM = 0.99
"""The score of an answer that counts as accepted."""
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_TEACHER = TeacherLabelRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of the right answer to one request.

    Attributes:
        record: the request's row.
        source: who says so.
        key: the API key whose word it is; of a teacher's label the key that sent the prompt, empty if nobody knows.
        prompt: as it was captured; None if it was not, or is no longer kept.
        answer: the right one, an assistant's message; None if there is none.
    """

    record: str
    source: LabelSource
    key: str
    prompt: Any
    answer: dict[str, Any] | None

    def row(self) -> SupervisedRow | None:
        """The row to train on; None if it would not be taken."""
        messages = captured_messages(self.prompt)
        if not messages or self.answer is None:
            return None
        try:
            row = answered(messages, msgspec.convert(self.answer, Message), self.source)
        except msgspec.ValidationError:
            return None
        return None if problem_of(row) else row


async def stream_labels(
    connection: AsyncConnection, adapter: str, rule: RetrainRule, *, since: datetime | None, until: datetime
) -> AsyncIterator[Label]:
    """The labels of the wanted sources given after `since` and up to `until`, one for each request and kind."""
    if {"correction", "accepted"} & set(rule.sources):
        async for row in await connection.stream(_said(adapter, rule, since, until)):
            source: LabelSource = "accepted" if row.correction is None else "correction"
            text = row.answer if row.correction is None else row.correction
            answer = None if text is None else {"role": "assistant", "content": text}
            yield Label(row.record_id, source, row.key_id, row.prompt, answer)
    if "teacher" in rule.sources:
        async for row in await connection.stream(_taught(adapter, since, until)):
            yield Label(row.record_id, "teacher", row.key_id, row.prompt, row.answer)


def _said(adapter: str, rule: RetrainRule, since: datetime | None, until: datetime) -> Any:
    columns = _FEEDBACK.c
    says = or_(columns.correction.is_not(None), columns.thumb.is_not(None), columns.score.is_not(None))
    best_first = (columns.correction.is_(None), columns.created_at.desc(), columns.id.desc())
    place = func.row_number().over(partition_by=columns.record_id, order_by=best_first).label("place")
    said = select(_FEEDBACK, place).where(columns.adapter == adapter, says, *_within(columns.created_at, since, until))
    best = said.subquery()
    wanted: list[ColumnElement[bool]] = [best.c.correction.is_not(None)] if "correction" in rule.sources else []
    if "accepted" in rule.sources:
        accepts = or_(best.c.score >= ACCEPTED_FROM, and_(best.c.score.is_(None), best.c.thumb == "up"))
        wanted.append(and_(best.c.correction.is_(None), accepts, best.c.variant.in_(OWN_VARIANTS)))
    own_place = func.row_number().over(
        partition_by=best.c.key_id, order_by=(best.c.created_at.desc(), best.c.id.desc())
    )
    labels = select(best, own_place.label("own_place")).where(best.c.place == 1, or_(*wanted)).subquery()
    of_its_share = or_(labels.c.own_place <= rule.most_of_one_key * MOST_LABELS, labels.c.key_id.in_(rule.trusted_keys))
    names = (labels.c.record_id, labels.c.key_id, labels.c.correction, _CAPTURES.c.prompt, _CAPTURES.c.answer)
    joined = select(*names).select_from(labels.outerjoin(_CAPTURES, _CAPTURES.c.id == labels.c.record_id))
    newest = joined.where(of_its_share).order_by(labels.c.created_at.desc(), labels.c.id.desc())
    return newest.limit(MOST_LABELS)


def _taught(adapter: str, since: datetime | None, until: datetime) -> Any:
    columns = _TEACHER.c
    names = (columns.record_id, columns.key_id, _CAPTURES.c.prompt, columns.answer)
    joined = select(*names).select_from(_TEACHER.outerjoin(_CAPTURES, _CAPTURES.c.id == columns.record_id))
    given = joined.where(
        columns.adapter == adapter, columns.answer.is_not(None), *_within(columns.created_at, since, until)
    )
    return given.order_by(columns.created_at.desc(), columns.record_id.desc()).limit(MOST_LABELS)


def _within(moment: Any, since: datetime | None, until: datetime) -> list[ColumnElement[bool]]:
    return [moment <= until, *([] if since is None else [moment > since])]
