"""How often an adapter's versions were held against one holdout."""

from typing import Any

import pytest

from registry.errors import NotFound
from registry.registry import Registry
from tests.conftest import AdapterMaker


def on(digest: str) -> dict[str, Any]:
    """A report of a gate that asked a holdout."""
    return {"passed": True, "sets": {"holdout": {"name": "holdout.jsonl", "digest": digest, "rows": 80}}}


async def test_versions_that_were_judged_on_a_holdout_are_counted(
    three: Registry, adapter_folder: AdapterMaker
) -> None:
    """Those of the adapter but for the one that asks; not those on another holdout, nor without such a report."""
    assert await three.judged_on("support", "a", besides=3) == 0
    await three.push("other", adapter_folder(1.0), actor="ann")
    for adapter, number, report in (
        ("support", 1, on("a")),
        ("support", 2, on("b")),
        ("support", 3, on("a")),
        ("other", 1, on("a")),
    ):
        await three.judge(adapter, number, passed=True, report=report, actor="tuner")
    assert await three.judged_on("support", "a", besides=3) == 1
    assert await three.judged_on("support", "a", besides=4) == 2
    await three.judge("support", 1, passed=False, report={"passed": False, "reason": "cancelled"}, actor="tuner")
    assert await three.judged_on("support", "a", besides=4) == 1
    with pytest.raises(NotFound, match="none"):
        await three.judged_on("none", "a", besides=1)
