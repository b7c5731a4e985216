"""Requests of a version as the recorder would have written them, for the tests of drift."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.tables import CaptureRow, RequestRow
from registry.catalog import Adapter, Canary, Catalog, Deployment, Version
from registry.monitoring import DriftRule, Monitoring

NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
RULE = DriftRule(every_h=6, window_rows=50, reference_rows=100, false_alarms_per_week=0.1)
WORDS = ("my", "order", "parcel", "arrived", "broken", "late", "please", "refund", "money", "router", "not", "start")
NEW_WORDS = ("invoice", "tax", "accountant", "privacy", "data", "delete", "recordings", "legal", "contract", "audit")


def catalog(rule: DriftRule = RULE, *, stable: int = 2, canary: int | None = None) -> Catalog:
    """`support`, of which one version is stable, watched by that rule."""
    versions = {
        number: Version("support", number, f"support@{number}-00000000", "0" * 64, 8, 16, 1, 1, "", "test", NOW)
        for number in (1, 2, 3)
    }
    deployment = Deployment(1, stable, Canary(canary, 0.5) if canary else None)
    return Catalog(1, {"support": Adapter("support", "tiny", NOW, versions, deployment, Monitoring(drift=rule))})


def sentence(rng: random.Random, words: Sequence[str] = WORDS) -> str:
    """A prompt of eight words."""
    return " ".join(rng.choices(words, k=8))


async def serve(database: AsyncEngine, count: int, first: int = 0, *, captured: bool = True, **fields: Any) -> None:
    """Write `count` requests of version 2, the `first`-th of all and later, a minute apart; `words` are the prompts'.

    Other fields are the request's; those of the capture have their own names (`prompt`, `answer`, `mean_logprob`).
    """
    words = fields.pop("words", WORDS)
    said = {name: fields.pop(name) for name in ("prompt", "answer", "mean_logprob") if name in fields}
    requests, captures = [], []
    for number in range(first, first + count):
        rng = random.Random(number)
        at = NOW - timedelta(days=30) + timedelta(minutes=number)
        row = RequestRow(
            id=f"r{number}",
            request_id=f"r{number}",
            path="/v1/chat/completions",
            started_at=at,
            **{
                "adapter": "support",
                "version": 2,
                "variant": "stable",
                "status": 200,
                "duration_s": 1.0,
                "streamed": False,
                "prompt_tokens": rng.randint(20, 40),
                "completion_tokens": rng.randint(5, 50),
                "finish_reason": "length" if rng.random() < 0.1 else "stop",
                **fields,
            },
        )
        capture = {
            "prompt": [{"role": "user", "content": sentence(rng, words)}],
            "answer": "I am sorry, but I cannot help with that." if rng.random() < 0.1 else "It is on its way.",
            "mean_logprob": -rng.random(),
            **said,
        }
        requests.append(row.model_dump())
        captures.append(
            CaptureRow(
                id=row.id,
                request_id=row.id,
                adapter=row.adapter or "",
                version=row.version or 0,
                variant=row.variant or "",
                created_at=at,
                **capture,
            ).model_dump()
        )
    async with database.begin() as connection:
        await connection.execute(RequestRow.__table__.insert(), requests)  # type: ignore[attr-defined]
        if captured:
            await connection.execute(CaptureRow.__table__.insert(), captures)  # type: ignore[attr-defined]
