"""What a look compares: which requests, which columns, and what is said of those that cannot be judged."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.drifting.windows import (
    Columns,
    Sample,
    Window,
    bounded,
    columns_of,
    comparable,
    fingerprint,
    language,
    missing_rows,
    newest_arrival,
    prompt_text,
    prompts_of,
    read_window,
)
from registry.database import connect, migrate
from registry.monitoring import DriftRule
from tests.monitors.drifting.traffic import RULE, serve

NAMES = ["prompt_tokens", "completion_tokens", "finish_reason", "mean_logprob", "refusal", "language", "prompt"]


async def window_of(database: AsyncEngine, rule: DriftRule = RULE) -> Window:
    """The window of version 2."""
    async with database.connect() as connection:
        return await read_window(connection, "support", 2, rule)


async def columns(database: AsyncEngine) -> Columns:
    """The columns of that window."""
    window = await window_of(database)
    return columns_of(window, RULE, prompts_of(window))


def sizes(columns: Columns) -> dict[str, tuple[int, int]]:
    """How many values each column has in the reference and in the window."""
    return {values.name: (len(values.reference), len(values.current)) for values in columns.judged}


async def test_the_reference_is_the_first_requests_and_the_window_the_newest(database: AsyncEngine) -> None:
    """They do not meet, what lies between belongs to neither, and only what the version served for clients counts."""
    await serve(database, 100, prompt_tokens=1)
    await serve(database, 30, 100, prompt_tokens=2)
    await serve(database, 50, 130, prompt_tokens=3, variant="canary")
    others: tuple[dict[str, Any], ...] = (
        {"status": 500},
        {"error": "stream_broken"},
        {"variant": "shadow"},
        {"version": 1},
        {"adapter": "other"},
    )
    for number, fields in enumerate(others):
        await serve(database, 20, 1000 + 100 * number, prompt_tokens=9, **fields)
        await serve(database, 20, 2000 + 100 * number, captured=False, prompt_tokens=9, **fields)
    window = await window_of(database)
    assert missing_rows(window, RULE) is None
    assert window.requests.both("prompt_tokens") == ([1] * 100, [3] * 50)
    found = columns_of(window, RULE, prompts_of(window))
    assert [values.name for values in found.judged] == NAMES
    assert sizes(found) == dict.fromkeys(NAMES, (100, 50))
    assert window.start is not None
    assert window.end is not None
    assert (window.end - window.start).total_seconds() == 49 * 60


async def test_requests_are_read_in_the_order_of_an_index(tmp_path: Path) -> None:
    """Their first and newest are found without sorting the log; captures of one instant alone are sorted."""
    database = connect(f"sqlite:///{tmp_path / 'ostler.db'}")
    await migrate(database)
    await serve(database, 150)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(database.sync_engine, "before_cursor_execute", note)
    async with database.connect() as connection:
        await newest_arrival(connection, "support", 2)
        await read_window(connection, "support", 2, RULE)
        event.remove(database.sync_engine, "before_cursor_execute", note)
        plans = []
        for statement, parameters in [each for each in asked if "ORDER BY" in each[0]]:
            rows = await connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append(" ".join(rows.scalars("detail")))
    await database.dispose()
    assert all("USING INDEX" in plan for plan in plans)
    assert ["TEMP" in plan for plan in plans] == [False] * 3 + [True] * 4
    assert all(plan.endswith("FOR RIGHT PART OF ORDER BY") for plan in plans if "TEMP" in plan)


async def test_too_few_requests_are_said_in_words(database: AsyncEngine) -> None:
    """How many there are, how many are needed, and what for."""
    assert (await window_of(database)).end is None
    await serve(database, 149)
    window = await window_of(database)
    words = "149 of 150 requests: 100 for the reference and 50 for a window after it"
    assert missing_rows(window, RULE) == words
    assert window.end is not None


async def test_without_captures_the_numbers_are_judged_alone(database: AsyncEngine) -> None:
    """And the others say that it is captured requests that they lack."""
    await serve(database, 150, captured=False)
    found = await columns(database)
    assert [values.name for values in found.judged] == NAMES[:3]
    assert found.missing.keys() == set(NAMES[3:])
    assert found.missing["prompt"].startswith("0 of 150 captured requests")


async def test_a_column_without_values_is_said_to_be(database: AsyncEngine) -> None:
    """Empty ones, ones of nothing but null, and prompts that are all the same; the others are judged all the same."""
    await serve(database, 150, mean_logprob=None, answer=None, prompt="yes", finish_reason=None)
    found = await columns(database)
    assert [values.name for values in found.judged] == ["prompt_tokens", "completion_tokens", "language"]
    assert found.missing["mean_logprob"].startswith("0 of 150 captured requests with a known mean_logprob")
    assert found.missing["finish_reason"] == "0 values in the window, where at least 20 are needed"
    assert "all rows of the reference are the same" in found.missing["prompt"]


def sample(reference: list[Any], current: list[Any]) -> Window:
    """A window whose captures have these log probabilities."""
    first, newest = (
        [{"mean_logprob": each, "refusal": "no", "prompt": f"{i % 7}"} for i, each in enumerate(side)]
        for side in (reference, current)
    )
    captures = Sample(first, newest, found=1000)
    return Window(Sample(), captures, logprobs=captures)


async def test_log_probabilities_have_a_window_of_their_own(database: AsyncEngine) -> None:
    """The newest ones that are known: of the newest requests few are, as they are found one after another."""
    await serve(database, 150, mean_logprob=-0.5)
    await serve(database, 150, 150, mean_logprob=None)
    (values,) = [each for each in (await columns(database)).judged if each.name == "mean_logprob"]
    assert (len(values.reference), len(values.current)) == (100, 50)


def test_unknown_values_are_left_out_and_windows_come_in_steps() -> None:
    """So that a window of which a little more or less is known has the thresholds of the one before."""
    rule = DriftRule(window_rows=200, reference_rows=300)
    for known, kept in ((200, 200), (199, 190), (191, 190), (31, 30)):
        unknown = [None, float("nan")] * 100
        window = sample([*[-0.5] * 100, *unknown], [*range(known), *unknown[: 200 - known]])
        (values,) = [
            each for each in columns_of(window, rule, prompts_of(window)).judged if each.name == "mean_logprob"
        ]
        assert len(values.reference) == 100
        assert values.current == list(range(known))[-kept:]


def test_training_prompts_are_the_reference_where_there_are_any() -> None:
    """Of prompts and languages; the other columns have the first requests still."""
    trained = [f"please help me with my broken router number {i}, thank you very much" for i in range(60)]
    window = sample([-0.5] * 100, [-0.5] * 50)
    found = {each.name: each for each in columns_of(window, RULE, prompts_of(window, trained)).judged}
    assert found["prompt"].reference == trained
    assert set(found["language"].reference) == {"en"}
    assert len(found["refusal"].reference) == 100


@pytest.mark.parametrize(
    "text", ["mail <EMAIL_ADDRESS> or <PHONE_NUMBER>", "mail [EMAIL] or [PHONE]", "mail jo@example.com or +4930901820"]
)
def test_whatever_stands_for_personal_data_is_the_same_word(text: str) -> None:
    """The tuner's placeholders, the gateway's, and what was left in; whatever the kind."""
    assert comparable(text) == "mail [REDACTED] or [REDACTED]"
    newest = [{"prompt": text}]
    assert prompts_of(Window(Sample(), Sample([], newest)), ["trained"]) == (["trained"], [comparable(text)])
    assert prompts_of(Window(Sample(), Sample(newest, newest))) == ([text], [text]), "both are the gateway's"


def test_what_stands_in_brackets_otherwise_stays() -> None:
    """Log levels, tags and names of fields are what a prompt says."""
    assert comparable("[ERROR] <b>x</b> [email] <Email> List<T1>") == "[ERROR] <b>x</b> [email] <Email> List<T1>"
    assert len(comparable("x" * 9999)) == 4000


def test_a_reference_with_other_values_has_another_fingerprint() -> None:
    """The window's values do not matter to it."""
    windows = (
        sample(reference, current)
        for reference, current in (([-0.5] * 60, [-1] * 50), ([-0.5] * 60, [-2] * 50), ([-0.6] * 60, [-1] * 50))
    )
    one, two, other = (columns_of(window, RULE, prompts_of(window)) for window in windows)
    assert fingerprint(one) == fingerprint(two) != fingerprint(other)


def test_no_more_rows_are_taken_than_fit() -> None:
    """Whatever the settings say."""
    large = msgspec.structs.replace(RULE, window_rows=100_000, reference_rows=1_000_000)
    assert (bounded(large).window_rows, bounded(large).reference_rows) == (5000, 5000)
    assert bounded(RULE) == RULE


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a text", "a text"),
        ([{"role": "system", "content": "be nice"}, {"role": "user", "content": "hello"}], "hello"),
        ([{"role": "user", "content": "old"}, {"role": "assistant"}, {"role": "user", "content": "new"}], "new"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "system", "content": "be nice"}], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_what_is_new_in_a_prompt_is_its_last_message(prompt: Any, text: str) -> None:
    """For a system prompt is the same for all, and a conversation has said the rest before."""
    assert prompt_text(prompt) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I want my money back for the router that I bought", "en"),
        ("ich möchte mein Geld für den Router zurück", "de"),
        ("hi", "LATIN"),
        ("привет", "CYRILLIC"),
        ("退款", "CJK"),
        ("12345 ?!", "NONE"),
        ("", "NONE"),
    ],
)
def test_language_or_script(text: str, found: str) -> None:
    """A few letters have no language that could be told, but a script."""
    assert language(text) == found
