"""The judging job: each pair once, failures asked again, and nothing that failed counted."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.captured import MOST_OF_ONE_ID
from monitors.judging.comparing import JudgingJob
from monitors.tables import ObservationRow, ScoreRow
from monitors.watch.client import GatewayRefused
from registry.catalog import Catalog
from registry.monitoring import ScorerChoice
from tests.monitors.judging.rows import NOW, capture, catalog, stored, workshop

SCORED = ("record_id", "version", "against", "value", "source")
OBSERVED = ("version", "against", "value")
JUDGED = catalog("judge")


class FakeJudge:
    """Finds the answer `good` better; refuses with `status` what `refuses` says."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 503
        self.refuses: Callable[[str], bool] = lambda _: False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one question."""
        self.asked += 1
        user = json.loads(request.content)["messages"][-1]["content"]
        if self.refuses(user):
            return httpx.Response(self.status, json={})
        first_is_good = "good" in user.partition("ANSWER B")[0]
        said = {"better": "A" if first_is_good else "B"}
        return httpx.Response(200, json={"choices": [{"message": {"content": json.dumps(said)}}]})


async def pair(database: AsyncEngine, name: str, own: str = "good", at: datetime = NOW, **shadow: object) -> None:
    """An answer of version 2 and its shadow."""
    prompt = [{"role": "user", "content": f"question {name}"}]
    same = {"request_id": name, "session": name, "prompt": prompt, "created_at": at}
    await capture(database, f"{name}-own", own, **same)
    other = {**same, "variant": "shadow", **shadow}
    await capture(database, f"{name}-other", "bad" if own == "good" else "good", **other)


@pytest.fixture
def fake() -> FakeJudge:
    """The judge's endpoint."""
    return FakeJudge()


@pytest.fixture
def new_job(database: AsyncEngine, tmp_path: Path, fake: FakeJudge) -> Callable[[], JudgingJob]:
    """Makes jobs before the judge, as after a restart."""
    return lambda: JudgingJob(workshop(database, tmp_path, fake))


async def test_each_pair_is_judged_once(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine
) -> None:
    """In two questions, also over restarts; a win is 1 for the adapter and a difference of 1 to the base."""
    await pair(database, "won")
    await pair(database, "lost", own="bad")
    await pair(database, "shadow", version=3)
    job = new_job()
    for each in (job, job, new_job()):
        await each.run(JUDGED, NOW)
    assert fake.asked == 6
    assert await stored(database, ScoreRow, *SCORED) == [
        ("lost-own", 2, "base", 0.0, "judge"),
        ("shadow-other", 3, "support@2-00000002", 0.0, "judge"),
        ("won-own", 2, "base", 1.0, "judge"),
    ]
    assert await stored(database, ObservationRow, *OBSERVED) == [
        (2, "base", -1.0),
        (2, "base", 1.0),
        (2, "level", 0.0),
        (2, "level", 1.0),
        (3, "support@2-00000002", -1.0),
    ]


@pytest.mark.parametrize(
    "watched",
    [catalog(), catalog("valid_json"), catalog(ScorerChoice("judge", {"share": 0.0}))],
    ids=["nothing", "others", "none drawn"],
)
async def test_the_judge_is_asked_only_where_it_is_chosen(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine, watched: Catalog
) -> None:
    """And of the share that is wanted."""
    await pair(database, "r")
    await new_job().run(watched, NOW)
    assert fake.asked == 0


async def test_without_a_judge_nothing_happens(database: AsyncEngine, tmp_path: Path) -> None:
    """The adapter may have chosen one that the settings do not name."""
    await pair(database, "r")
    await JudgingJob(workshop(database, tmp_path)).run(JUDGED, NOW)
    assert await stored(database, ScoreRow, "id") == []


async def test_a_judge_that_is_away_is_waited_for(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine
) -> None:
    """The job fails, however often, nothing is counted as a tie, and nothing is lost once it is back."""
    for number in range(3):
        await pair(database, f"r{number}")
    fake.refuses = lambda _: True
    job = new_job()
    for _ in range(5):
        with pytest.raises(GatewayRefused):
            await job.run(JUDGED, NOW)
    assert await stored(database, ScoreRow, "id") == []
    fake.refuses = lambda _: False
    await job.run(JUDGED, NOW)
    assert [row[3] for row in await stored(database, ScoreRow, *SCORED)] == [1.0] * 3


async def test_a_pair_that_the_judge_refuses_holds_up_no_other(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine
) -> None:
    """It is tried again while others are judged, and given up in the end without a score."""
    fake.refuses, fake.status = lambda user: "question poison" in user, 400
    await pair(database, "poison")
    job = new_job()
    for number in range(4):
        await pair(database, f"r{number}")
        await job.run(JUDGED, NOW)
    assert [row[0] for row in await stored(database, ScoreRow, *SCORED)] == [f"r{number}-own" for number in range(4)]
    asked = fake.asked
    await job.run(JUDGED, NOW)
    assert fake.asked == asked


async def test_a_restart_finds_what_was_refused(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine
) -> None:
    """However much later the pairs were that were judged meanwhile."""
    await pair(database, "early", at=NOW - timedelta(hours=1))
    await pair(database, "late")
    fake.refuses = lambda user: "question early" in user
    await new_job().run(JUDGED, NOW)
    assert [row[0] for row in await stored(database, ScoreRow, *SCORED)] == ["late-own"]
    fake.refuses = lambda _: False
    await new_job().run(JUDGED, NOW)
    assert [row[0] for row in await stored(database, ScoreRow, *SCORED)] == ["early-own", "late-own"]


async def test_answers_to_different_questions_are_not_compared(
    new_job: Callable[[], JudgingJob], fake: FakeJudge, database: AsyncEngine
) -> None:
    """A request id may be used again; an answer without text is none."""
    await capture(database, "own", "good", request_id="r", prompt="this")
    await capture(database, "other", "bad", request_id="r", variant="shadow", prompt="that")
    await pair(database, "tool")
    await capture(database, "tool2-own", None, request_id="tool2")
    await capture(database, "tool2-other", "bad", request_id="tool2", variant="shadow")
    await new_job().run(JUDGED, NOW)
    assert fake.asked == 2


async def test_a_request_id_that_is_used_again_and_again_is_not_compared(
    database: AsyncEngine, new_job: Callable[[], JudgingJob], fake: FakeJudge
) -> None:
    """Nobody reads all of its answers to find out which belong together; others are compared."""
    for number in range(MOST_OF_ONE_ID):
        await capture(database, f"own-{number}", "good", request_id="same", prompt=str(number))
        await capture(database, f"other-{number}", "bad", request_id="same", prompt=str(number), variant="shadow")
    await pair(database, "once")
    await new_job().run(JUDGED, NOW)
    assert [row[0] for row in await stored(database, ScoreRow, *SCORED)] == ["once-own"]
    assert fake.asked == 2
