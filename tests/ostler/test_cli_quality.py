"""`ostler monitoring` and `ostler quality`: how an adapter is watched, and how good its versions are."""

import json
from pathlib import Path

import pytest

from monitors.judging.quality import QualityJob
from tests.conftest import RunningGateway
from tests.monitors.judging.rows import NOW, observe, workshop
from tests.ostler.command import MISUSED, REFUSED, Cli
from tests.ostler.in_process import QuickCli


async def test_monitoring_is_shown_and_changed(two: Cli, tmp_path: Path) -> None:
    """Each option reaches its field; what is not said stays."""
    shown = (await two("monitoring", "support")).out
    for words in ("off: no prompt and no answer is kept", "that of the first 200 sessions", "every 24 h"):
        assert words in shown
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"schema": {"type": "object"}}))
    scorers = ("--scorer", "json_schema", "--scorer", "judge", "--scorer-options", f"json_schema=@{schema}")
    options = ("--scorer-options", 'judge={"share": 0.1}', "--capture", "0.1", "--capture-days", "7")
    first = (await two("monitoring", "support", *scorers, *options, "--json")).json
    assert first["scorers"] == [
        {"scorer": "json_schema", "options": {"schema": {"type": "object"}}},
        {"scorer": "judge", "options": {"share": 0.1}},
    ]
    assert (first["capture"], first["capture_days"]) == (0.1, 7)
    quality = ("--quality-scorer", "json_schema", "--level", "0.9", "--drop", "0.1", "--alarm-every", "500")
    drift = ("--drift-every-h", "0", "--drift-window", "100", "--drift-reference", "300", "--drift-false-alarms", "1")
    second = (
        await two("monitoring", "support", *quality, *drift, "--alpha", "0.01", "--golden-every-h", "0", "--json")
    ).json
    rule = {"scorer": "json_schema", "level": 0.9, "drop": 0.1, "alarm_every": 500, "alpha": 0.01}
    assert second == first | {
        "quality": first["quality"] | rule,
        "drift": {"every_h": 0, "window_rows": 100, "reference_rows": 300, "false_alarms_per_week": 1},
        "golden_every_h": 0,
    }
    third = (await two("monitoring", "support", "--level-from-first", "300", "--json")).json["quality"]
    assert third == second["quality"] | {"level": None, "level_observations": 300}
    gain = (await two("monitoring", "support", "--against", "base", "--level", "-0.25", "--json")).json["quality"]
    assert (gain["against"], gain["level"]) == ("base", -0.25)
    assert "beside the base model; expected level: -0.25" in (await two("monitoring", "support")).out
    await two("monitoring", "support", "--against", "level", "--level-from-first", "300")
    shown = (await two("monitoring", "support")).out
    for words in ("10% of the requests", 'judge {"share": 0.1}', "decided by json_schema", "on demand", "alpha 0.01"):
        assert words in shown
    without = await two("monitoring", "support", "--no-scorers", "--quality-scorer", "feedback", "--json")
    assert without.json["scorers"] == []


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--level", "1", "--level-from-first", "10"), MISUSED, "contradict"),
        (("--scorer", "judge", "--scorer-options", "judge"), MISUSED, "NAME=JSON"),
        (("--scorer", "judge", "--scorer-options", "judge={"), MISUSED, "no JSON"),
        (("--scorer", "judge", "--scorer-options", "judge=@/nowhere"), MISUSED, "cannot be read"),
        (("--scorer-options", "judge={}"), MISUSED, "no --scorer judge"),
        (("--scorer", "nonsense"), REFUSED, "there are: "),
        (("--quality-scorer", "bleu"), REFUSED, "feedback"),
    ],
)
async def test_what_makes_no_sense_is_one_line(
    shared_two: RunningGateway, tmp_path: Path, options: tuple[str, ...], code: int, says: str
) -> None:
    """That says what would be right."""
    (await QuickCli(shared_two, tmp_path)("monitoring", "support", *options)).assert_failed(code, says)


async def test_quality_is_a_readable_screen(two: Cli, tmp_path: Path) -> None:
    """With the verdict, the numbers, and the differences; before any score it says that there is not enough data."""
    assert "not enough data" in (await two("quality", "support")).out
    database = two.gateway.app.state["database"]
    await observe(database, [1.0, 0.5] * 150, version=1)
    await observe(database, [0.5] * 100, version=1, against="base")
    await QualityJob(workshop(database, tmp_path)).run(await two.gateway.registry.catalog(), NOW)
    out = (await two("quality", "support")).out
    for words in ("version 1 (stable, support@1-", "as expected by feedback", "expected 0.750", "of 1", "300", "0.750"):
        assert words in out
    for words in ("against base", "+0.500", "better"):
        assert words in out
    assert (await two("quality", "support", "--json")).json["versions"][0]["verdict"] == "as expected"
    (await two("quality", "nobody")).assert_failed(REFUSED, "there is no adapter 'nobody'")
