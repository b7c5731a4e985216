"""Finished requests for the tests of what happens to them."""

from datetime import UTC, datetime
from typing import Any

from monitors.record import RequestRecord

NOVEMBER = datetime(2026, 11, 3, 12, 0, tzinfo=UTC).timestamp()


def record(request_id: str = "req-1", **fields: Any) -> RequestRecord:
    """A request that went well, but for what `fields` say."""
    usual: dict[str, Any] = {
        "path": "/v1/chat/completions",
        "key_id": "key-1",
        "adapter": "support",
        "model": "support@2-c06e5ebf",
        "version": 2,
        "variant": "stable",
        "status": 200,
        "error": None,
        "started_at": NOVEMBER,
        "duration_s": 0.5,
        "first_byte_s": 0.1,
        "streamed": True,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "replica": "r0",
        "retries": 1,
        "queue_s": 0.25,
        "cost": 0.5,
    }
    return RequestRecord(request_id=request_id, **{**usual, **fields})
