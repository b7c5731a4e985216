"""Following a job: what a terminal and a log show of it, and that a gateway may be away for a while."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from ostler import following, render
from ostler.client import CommandFailed
from ostler.following import Figures, Lines, Screen, follow, span

MOMENT = 1_790_000_000


def event(number: int, message: str, data: dict[str, Any] | None = None, level: str = "info") -> dict[str, Any]:
    """An event as the API has it."""
    kind = "message" if data is None else "metrics"
    name = f"ftevent-{number:016d}"
    return {"id": name, "created_at": MOMENT, "level": level, "message": message, "data": data, "type": kind}


def step(number: int, loss: float = 0.5, total: int = 200) -> dict[str, Any]:
    """A step's event."""
    data = {"step": number, "total_steps": total, "train_loss": loss, "remaining_s": 65.0}
    return event(number, f"Step {number}/{total}", data)


def job(state: str = "running", stage: str = "training") -> dict[str, Any]:
    """A job as the API has it."""
    return {"status": state, "ostler": {"state": state, "stage": stage}}


class Answers:
    """A client that has these events, and fails as often as it is told."""

    url = "http://gateway"

    def __init__(self, events: list[Any], failures: list[CommandFailed]) -> None:
        self._events, self._failures = events, failures
        self.asked = 0

    def call(self, _method: str, path: str, **arguments: Any) -> Any:
        """Answer."""
        self.asked += 1
        if self._failures:
            raise self._failures.pop(0)
        if not path.endswith("/events"):
            return job("succeeded" if self.asked > 8 else "running")
        params = arguments["params"]
        newest_first = self._events[::-1]
        if after := params.get("after"):
            newest_first = [each for each in newest_first if each["id"] < after]
        page = newest_first[: params["limit"]]
        return {"data": page, "has_more": len(page) < len(newest_first)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses."""
    monkeypatch.setattr(following, "_POLL_S", 0.0)


@pytest.mark.usefixtures("quick")
def test_a_gateway_may_be_away_for_a_while(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, which is said once; a refusal, or one that stays away, ends it."""
    monkeypatch.setattr(render, "err", Console(stderr=True, markup=False))
    away, failing = CommandFailed("gone", 3), CommandFailed("ill", status=503)
    answers: Any = Answers([event(1, "Created")], [away, failing, away])
    assert follow(answers, "ftjob-1", json=True)["status"] == "succeeded"
    found = capsys.readouterr()
    assert found.out.count("Created") == 1
    assert found.err.count("does not answer") == 1
    refused: Any = Answers([], [CommandFailed("not yours", status=404)])
    with pytest.raises(CommandFailed, match="not yours"):
        follow(refused, "ftjob-1", json=True)
    monkeypatch.setattr(following, "_LONGEST_AWAY_S", 0.0)
    lost: Any = Answers([], [away])
    with pytest.raises(CommandFailed, match="gone"):
        follow(lost, "ftjob-1", json=True)


def screen(width: int = 100) -> tuple[Screen, Callable[[], str]]:
    """A screen, and what it has drawn."""
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=width, highlight=False, markup=False, color_system=None)
    return Screen(console), drawn.getvalue


def test_a_terminal_shows_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events as lines, numbers in the bar; at the end only the lines are left."""
    monkeypatch.setenv("TZ", "UTC")
    view, drawn = screen()
    with view:
        view.tell(event(1, "Created [bold]fine-tuning[/] job \x1b[31m"))
        view.show(job("queued", "waiting"))
        assert "queued" in "".join(map(str, view._console.render_lines(view._draw())))
        view.tell(step(100))
        view.tell(event(101, "Step 100", {"step": 100, "full_valid_loss": 0.75}))
        view.show(job())
        bar = "".join(segment.text for line in view._console.render_lines(view._draw()) for segment in line)
        assert "training" in bar
        assert "100/200  1:05 left" in bar
        assert "loss 0.5000, validation 0.7500" in bar
        view.show(job("running", "evaluating"))
        bar = "".join(segment.text for line in view._console.render_lines(view._draw()) for segment in line)
        assert "evaluating" in bar
        assert "100/200" not in bar
        view.tell(event(102, "412 of 960 answers", {"answers": 412, "total_answers": 960}))
        view.show(job("running", "evaluating"))
        bar = "".join(segment.text for line in view._console.render_lines(view._draw()) for segment in line)
        assert "412/960 answers" in bar
        view.note("the gateway does not answer")
    assert "Created [bold]fine-tuning[/] job \ufffd[31m" in drawn()
    assert "Step 100\n" not in drawn()
    assert "412 of 960" not in drawn()
    assert "the gateway does not answer" in drawn()


def test_a_log_has_numbers_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first look, at each validation, when some time has passed, and at the end; not for every step."""
    out = io.StringIO()
    monkeypatch.setattr(render, "out", Console(file=out, width=200, highlight=False))
    now = [1000.0]
    monkeypatch.setattr("ostler.following.time.monotonic", lambda: now[0])
    view = Lines()
    for number in range(1, 100):
        view.tell(step(number))
        view.show(job())
        now[0] += 0.5
    view.tell(step(100, 0.25))
    view.show(job("succeeded", "done"))
    lines = out.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == [f"step {n}" for n in (1, 21, 41, 61, 81, 100)]
    assert lines[-1] == "step 100/200: loss 0.2500, 1:05 left"
    view.tell(event(101, "Step 100", {"step": 100, "full_valid_loss": 0.75}))
    assert out.getvalue().splitlines()[-1] == "step 100/200: loss 0.2500, validation 0.7500, 1:05 left"


def test_a_log_tells_now_and_then_how_far_the_gate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says nothing of steps that are over."""
    out = io.StringIO()
    monkeypatch.setattr(render, "out", Console(file=out, width=200, highlight=False))
    now = [1000.0]
    monkeypatch.setattr("ostler.following.time.monotonic", lambda: now[0])
    view = Lines()
    view.tell(step(200))
    view.show(job())
    for number in range(201, 241):
        view.tell(event(number, "", {"answers": number, "total_answers": 960}))
        view.show(job("running", "evaluating"))
        now[0] += 0.5
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step 200/200: ")
    assert lines[1:] == ["221 of 960 answers"]


def test_numbers_that_are_not_told_are_not_shown() -> None:
    """Such as a gradient norm that nobody knows."""
    figures = Figures()
    assert (figures.line, figures.remaining) == ("", "")
    figures.take({"step": 1, "train_loss": 1.0, "gradient_norm": None})
    assert figures.line == "loss 1.0000"


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_061, "10:01:01")])
def test_times_are_shown_as_on_a_clock(seconds: float, shown: str) -> None:
    """With hours where there are any."""
    assert span(seconds) == shown
