"""What the tests of judging start from: a catalog, captured answers, feedback, and what became of them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.settings import MonitorSettings
from monitors.tables import CaptureRow, FeedbackRow, ObservationRow
from monitors.watch.client import GatewayClient
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.catalog import Adapter, Catalog, Deployment, Version
from registry.monitoring import Monitoring, QualityRule, ScorerChoice

_RULE = QualityRule()
NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
PROMPT = [{"role": "user", "content": "what is it?"}]


def version(number: int, *, archived: bool = False) -> Version:
    """A version of `support`."""
    return Version(
        "support", number, f"support@{number}-0000000{number}", "0" * 64, 8, 16, 1, 1, "", "test", NOW, archived
    )


def catalog(
    *scorers: str | ScorerChoice,
    quality: QualityRule = _RULE,
    stable: int = 2,
    archived: Iterable[int] = (),
) -> Catalog:
    """`support` with versions 1 to 3, one of them stable, watched with these scorers."""
    choices = tuple(ScorerChoice(each) if isinstance(each, str) else each for each in scorers)
    versions = {number: version(number, archived=number in set(archived)) for number in (1, 2, 3)}
    watched = Monitoring(capture=1.0, scorers=choices, quality=quality)
    adapter = Adapter("support", "tiny", NOW, versions, Deployment(1, stable), watched)
    return Catalog(change=1, adapters={"support": adapter})


Answering = Callable[[httpx.Request], httpx.Response]


def workshop(database: AsyncEngine, folder: Path, judge: Answering | None = None) -> Workshop:
    """What jobs work with; `judge` stands in for the judge's endpoint."""
    client = GatewayClient("http://judge", "", concurrency=4, transport=httpx.MockTransport(judge or _refuse))
    settings = MonitorSettings(home=folder, cache=folder, judge_model="judge" if judge else "")
    store = ArtifactStore(str(folder / "artifacts"), folder / "cache")
    return Workshop(database, store, client, client if judge else None, MonitorMetrics(), settings, folder)


def _refuse(_request: httpx.Request) -> httpx.Response:
    raise AssertionError("nobody is to be asked")


async def capture(database: AsyncEngine, row_id: str, answer: str | None, **fields: Any) -> None:
    """A captured answer of version 2; a shadow of the base if `variant` says so."""
    shadow = fields.get("variant") == "shadow"
    usual = {
        "request_id": row_id,
        "adapter": "support",
        "version": 0 if shadow else 2,
        "variant": "stable",
        "session": None,
        "end_user": None,
        "prompt": PROMPT,
        "redactions": 0,
        "mean_logprob": None,
        "created_at": NOW,
    }
    await _insert(database, CaptureRow, {"id": row_id, "answer": answer, **usual, **fields})


async def say(database: AsyncEngine, record_id: str, **fields: Any) -> None:
    """Feedback on an answer of version 2."""
    usual = {
        "id": f"said-{record_id}",
        "request_id": record_id,
        "key_id": "key-1",
        "client_id": None,
        "adapter": "support",
        "version": 2,
        "variant": "stable",
        "session": None,
        "end_user": None,
        "thumb": None,
        "score": None,
        "comment": None,
        "correction": None,
        "created_at": NOW,
    }
    await _insert(database, FeedbackRow, {"record_id": record_id, **usual, **fields})


async def observe(
    database: AsyncEngine,
    values: Iterable[float],
    *,
    against: str = "level",
    scorer: str = "feedback",
    version: int = 2,
) -> None:
    """Observations of a version, each of a session of its own."""
    table: Any = ObservationRow.__table__  # type: ignore[attr-defined]
    async with database.begin() as connection:
        before = len(list(await connection.execute(select(table.c.id))))
        test = {"adapter": "support", "version": version, "scorer": scorer, "against": against, "created_at": NOW}
        rows = [test | {"session": str(number), "value": value} for number, value in enumerate(values, before)]
        await connection.execute(table.insert(), rows)


async def stored(database: AsyncEngine, model: Any, *names: str) -> list[tuple[Any, ...]]:
    """The columns of all rows of a table, sorted."""
    async with database.connect() as connection:
        rows = await connection.execute(select(*(model.__table__.c[name] for name in names)))
        return sorted(tuple(row) for row in rows)


async def _insert(database: AsyncEngine, model: Any, row: dict[str, Any]) -> None:
    async with database.begin() as connection:
        await connection.execute(model.__table__.insert(), row)
