"""The training material of the loop: how much there is since the last training, its rows, and the order of the job.

Labels are corrections, accepted answers and a teacher's answers (`monitors.loop.sources`), without contradictions and
repeats and with a cap for each key (`monitors.loop.survey`). An answer of the adapter's own is in it only if somebody
accepted it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.loop.seen import Labels
from monitors.loop.sources import Label, stream_labels
from monitors.loop.survey import Survey, batches, survey
from monitors.loop.voices import Agreement, agreement, fall_of
from monitors.tables import DriftRunRow
from registry.catalog import Adapter
from registry.policies import Policy, RetrainRule

LONGEST_REASON = 1000
_BATCH = 200
_AT_ONCE = 2
_LEAST_PAUSE_S = 5.0
_PAUSE_RATIO = 20
_SHOWN_COLUMNS = 5
_RUNS = DriftRunRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_OWN_FIELDS = ("adapter", "start_from", "reason")


async def labels(
    connection: AsyncConnection, adapter: Adapter, policy: Policy, *, since: datetime | None, until: datetime
) -> Labels:
    """What a training would have, of labels given after `since` and up to `until`.

    It reads all of their text: some tenths of a millisecond for each.
    """
    found = await survey(
        stream_labels(connection, adapter.name, policy.retrain, since=since, until=until), policy.retrain
    )
    fall = await fall_of(connection, adapter)
    said = Agreement()
    if fall is not None:
        said = await agreement(connection, adapter, fall, policy.retrain.trusted_keys)
    return _labels(found, said)


async def rows(
    connection: AsyncConnection, adapter: Adapter, rule: RetrainRule, *, since: datetime | None, until: datetime
) -> AsyncIterator[bytes]:
    """The lines of a file of training data, the newest label first; the same ones for the same database and `until`."""
    found = await survey(stream_labels(connection, adapter.name, rule, since=since, until=until), rule)
    again = stream_labels(connection, adapter.name, rule, since=since, until=until)
    async for batch in batches(again, _BATCH):
        for line in await asyncio.to_thread(_lines, batch, found):
            yield line


@dataclass(slots=True)
class _Look:
    """What was found, about what, when it was looked for, and how long that took (seconds)."""

    about: Any
    found: Labels
    at: float
    took_s: float


class Surveyor:
    """Remembers what there is, so that asking again and again costs next to nothing.

    It looks again once that takes a twentieth of the time at most, and at once if what it is asked about changed. Its
    reading has a connection of its own; a transaction that writes should not be open meanwhile. Of many adapters that
    are asked about at once the others wait.
    """

    def __init__(self, database: AsyncEngine, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def labels(self, adapter: Adapter, policy: Policy, *, since: datetime | None, until: datetime) -> Labels:
        """As `labels` has them, of a while ago at most."""
        about = (since, policy.retrain, policy.quality, adapter.deployment and adapter.deployment.stable)
        look = self._looks.get(adapter.name)
        if look is not None and look.about == about and self._clock() < _next_at(look):
            return look.found
        async with self._places, self._database.connect() as connection:
            began = self._clock()
            found = await labels(connection, adapter, policy, since=since, until=until)
            now = self._clock()
        self._looks[adapter.name] = _Look(about, found, now, now - began)
        return found


async def job_body(
    connection: AsyncConnection, adapter: Adapter, policy: Policy, reason: str, *, cycle: int, decision: int
) -> dict[str, Any]:
    """What asks the tuning API for the job, but for the id of its file.

    Training goes on from the version that is stable now, with a replay of what that was trained on; the newest drift
    report about it goes with the reason.
    """
    assert adapter.deployment is not None, "only what serves loses quality"
    stable, wanted = adapter.deployment.stable, policy.retrain.job
    drift = await newest_drift(connection, adapter.name, stable)
    told = reason if drift is None else f"{reason} {_drift_words(drift)}"
    ours = {name: value for name, value in wanted.get("ostler", {}).items() if name not in _OWN_FIELDS}
    body: dict[str, Any] = {
        "model": f"{adapter.name}@{stable}",
        "suffix": f"loop cycle {cycle}",
        "metadata": {"cycle": str(cycle), "decision": str(decision)} | ({} if drift is None else {"drift": drift.id}),
        "ostler": ours | {"reason": told[:LONGEST_REASON]},
    }
    if hyperparameters := wanted.get("hyperparameters"):
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return body


async def newest_drift(connection: AsyncConnection, adapter: str, version: int) -> Any:
    """The newest look for drift in the version's traffic, a row of `DriftRunRow`; None if there was none."""
    columns = _RUNS.c
    query = select(_RUNS).where(columns.adapter == adapter, columns.version == version)
    return (await connection.execute(query.order_by(columns.id.desc()).limit(1))).first()


def _labels(found: Survey, said: Agreement) -> Labels:
    return Labels(
        rows=len(found.kept),
        found=found.found,
        by_source=found.by_source,
        heaviest_key=found.heaviest_key,
        heaviest_share=found.heaviest_share,
        agreed=said.agreed,
        lone_voice=said.lone,
        without_prompt=found.without_prompt,
        unusable=found.unusable,
        contradicted=found.contradicted,
        repeated=found.repeated,
    )


def _lines(batch: Iterable[Label], found: Survey) -> list[bytes]:
    chosen = (label.row() for label in batch if found.kept.get(label.record) == label.source)
    return [msgspec.json.encode(row) + b"\n" for row in chosen if row is not None]


def _next_at(look: _Look) -> float:
    return look.at + max(_LEAST_PAUSE_S, _PAUSE_RATIO * look.took_s)


def _drift_words(run: Any) -> str:
    """What the drift report says, in a sentence."""
    drifted = [each for each in run.columns or () if each["drifted"]]
    words = [f"{each['name']} ({each['statistic']:.3g}, threshold {each['threshold']:.3g})" for each in drifted]
    shown = ", ".join(words[:_SHOWN_COLUMNS]) + (" and others" if len(words) > _SHOWN_COLUMNS else "")
    found = {
        "drift": f"drift in {shown}",
        "no_drift": "no drift",
        "not_enough_data": "not enough traffic to tell",
        "failed": "that the look failed",
    }
    return (
        f"The drift report {run.id} of {run.created_at:%Y-%m-%d %H:%M} UTC says: {found.get(run.outcome, run.outcome)}."
    )
