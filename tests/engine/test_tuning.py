"""Tuning on real parts: TRL, PEFT and bitsandbytes train, vLLM serves, the gate judges; through OpenAI's own SDK."""

import concurrent.futures
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import demo
from demo.skills import skills
from demo.tickets import Ticket, training
from tests.engine.conftest import Up
from tests.engine.test_sdk import OLD_SDK, ROOT
from tests.tuner.training.preferences import pairs

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

TICKETS = 700
SKILLS = 160
GATE = {"scorers": [{"scorer": "json_equality"}], "rows": 80}
FAST = {"batch_size": 16, "n_epochs": 2, "learning_rate_multiplier": 2.0}
QUESTION = "Hi, my doorbell arrived with a crack and I want a replacement. Guests arrive tonight, so please hurry."


def row(prompt: str, answer: str, **more: str) -> dict[str, Any]:
    """A line of a training file."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def ticket_rows(tickets: Iterable[Ticket]) -> list[dict[str, Any]]:
    """Tickets with their right answers, to be split by their intent."""
    return [row(ticket.message, ticket.answer, label=ticket.intent) for ticket in tickets]


def skill_rows(n: int) -> list[dict[str, Any]]:
    """General skills, without which the base's own would be forgotten."""
    return [row(each.prompt, each.answer) for each in skills(n, seed=5)]


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as JSON lines."""
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


class Tuning:
    """Runs jobs through one version of the SDK."""

    def __init__(self, up: Up, folder: Path) -> None:
        self._up = up
        self._folder = folder

    def run(self, rows: Sequence[dict[str, Any]], *, version: int = 3, **create: Any) -> dict[str, Any]:
        """Upload rows, run a job on them to its end, and ask its model; what the client saw."""
        file = write(self._folder / f"{random.Random().getrandbits(64):x}.jsonl", rows)
        order = {
            "url": self._up.url,
            "key": self._up.key,
            "version": str(version),
            "file": str(file),
            "create": {"model": demo.BASE_NAME, "seed": 11, **create},
            "question": QUESTION,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHONPATH"))}
        paths = [str(ROOT), *([str(OLD_SDK)] if version == 2 else [])]
        ran = subprocess.run(
            [sys.executable, "-m", "tests.engine.tuning_sdk", json.dumps(order)],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": os.pathsep.join(reversed(paths))},
            capture_output=True,
            text=True,
            timeout=700,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return dict(json.loads(ran.stdout))

    def version(self, adapter: str, number: int) -> dict[str, Any]:
        """A version with its lineage and its gate's report."""
        with self._up.http() as http:
            return dict(http.get(f"/admin/v1/adapters/{adapter}/versions/{number}").json())


@pytest.fixture(scope="module")
def tuning(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    """Jobs against the running `ostler up`."""
    return Tuning(up, tmp_path_factory.mktemp("tuning"))


def part(report: dict[str, Any], name: str) -> dict[str, Any]:
    """One part of a gate's report."""
    (found,) = [each for each in report["parts"] if each["name"] == name]
    return dict(found)


@pytest.fixture(scope="module")
def desk(tuning: Tuning, up: Up) -> dict[str, Any]:
    """What a client saw of the job that made `desk@1`, by LoRA; it is live since."""
    seen = tuning.run(rows_of_the_desk(), **supervised(FAST), **asked("desk"))
    assert seen["job"]["status"] == "succeeded", seen["job"]["error"]
    promoted = up.cli("promote", "desk", "1")
    assert promoted.returncode == 0, promoted.stderr
    return seen


def rows_of_the_desk() -> list[dict[str, Any]]:
    """What a good version learns from."""
    return ticket_rows(training(TICKETS, seed=31)) + skill_rows(SKILLS)


def asked(adapter: str, **ostler: Any) -> dict[str, Any]:
    """What OpenAI's API has no field for."""
    return {"metadata": {"team": "support"}, "extra_body": {"ostler": {"adapter": adapter, "gate": GATE, **ostler}}}


def test_a_file_becomes_a_served_model(
    tuning: Tuning, up: Up, desk: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the SDK 3.x: uploaded, trained, let through by the gate, and asked by its name at once."""
    assert_served(tuning, up, desk, "desk", capsys)
    assert tuning.version("desk", 1)["lineage"]["plan"]["quantization"] == "none"


@pytest.fixture(scope="module")
def killed(tuning: Tuning, up: Up) -> tuple[dict[str, Any], int]:
    """What a client saw of the job that made `desk-nf4@1`, by QLoRA; and the step at which its tuner was killed."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        order = {**supervised(FAST), **asked("desk-nf4", quantization="nf4")}
        ended = pool.submit(tuning.run, rows_of_the_desk(), version=2, **order)
        at_half = wait_for_half(up, "desk-nf4")
        (tuner,) = up.running("ostler tuner")
        tuner.kill()
        return ended.result(), at_half


def test_so_it_does_by_qlora_and_the_sdk_before(
    tuning: Tuning, up: Up, killed: tuple[dict[str, Any], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the SDK 2.x, with the base model in NF4; served on the base that is not quantized."""
    seen, _ = killed
    assert_served(tuning, up, seen, "desk-nf4", capsys)
    assert tuning.version("desk-nf4", 1)["lineage"]["plan"]["quantization"] == "nf4"


def test_a_killed_tuners_job_goes_on(killed: tuple[dict[str, Any], int]) -> None:
    """`kill -9` at half of the training: the next tuner resumes it, and no step between two checkpoints is missing."""
    seen, at_half = killed
    (taken_over,) = [n for n, each in enumerate(seen["events"]) if "goes on from the checkpoint" in each["message"]]
    before, after = trained(seen["events"][:taken_over]), trained(seen["events"][taken_over:])
    assert 1 < after[0] <= before[-1] + 1, "it began anew"
    assert before[-1] >= at_half
    total = max(after)
    missing = set(range(1, total + 1)) - set(before) - set(after)
    assert len(missing) <= total // 8  # two epochs with four checkpoints each
    assert sum("Registered" in event["message"] for event in seen["events"]) == 1


def trained(events: Sequence[dict[str, Any]]) -> list[int]:
    """The steps of which events tell the loss, in their order."""
    return [event["data"]["step"] for event in events if "train_loss" in (event["data"] or {})]


def assert_served(
    tuning: Tuning, up: Up, seen: dict[str, Any], adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss fell, its checkpoints are listed, the gate let it through, and vLLM says what PEFT said."""
    job = seen["job"]
    assert job["status"] == "succeeded", job["error"]
    assert (job["fine_tuned_model"], job["metadata"]) == (f"{adapter}@1", {"team": "support"})
    assert job["trained_tokens"] > 0
    assert seen["answer"]["model"].startswith(f"{adapter}@1-")
    assert json.loads(seen["answer"]["text"]).keys() == {"intent", "product", "urgency"}
    losses = [event["data"]["train_loss"] for event in seen["events"] if "train_loss" in (event["data"] or {})]
    assert losses[-1] < losses[0] / 4
    assert seen["checkpoints"]
    assert seen["results"][0].startswith("step,train_loss")
    report = tuning.version(adapter, 1)["report"]
    with capsys.disabled():
        print(f"\n{adapter}@1: {report['reason']}")
        for each in report["parts"]:
            print(f"  {each['name']}: {each['difference']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})")
    assert report["passed"]
    assert all(each["passed"] for each in report["parts"])
    assert part(report, "quality")["low"] > 0.1
    verified = json.loads(up.cli("verify", adapter, "1", "--json").stdout)["data"]
    assert [(each["ok"], each["kind"]) for each in verified] == [(True, "probes")]


def supervised(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The method of a job."""
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


def shuffled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same prompts with each other's answers."""
    answers = [each["messages"][1]["content"] for each in rows]
    random.Random(3).shuffle(answers)
    return [row(each["messages"][0]["content"], answer) for each, answer in zip(rows, answers, strict=True)]


def bad_jobs() -> dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]]:
    """By the part of the gate that stops it: rows, hyperparameters, and what is asked of Ostler."""
    tickets = ticket_rows(training(300, seed=37))
    no_replay = {"replay_share": 0.0}
    return {
        # Labels that say nothing about their prompts.
        "quality": (shuffled(tickets), {**FAST, "n_epochs": 1}, no_replay),
        # Nothing but tickets, far too hot: the base's skills are gone.
        "retention": (ticket_rows(training(TICKETS, seed=41)), {**FAST, "learning_rate_multiplier": 6.0}, no_replay),
        # The live version again, hardly touched: no worse, and no better.
        "no_better": (
            rows_of_the_desk(),
            {**FAST, "n_epochs": 1, "learning_rate_multiplier": 0.001},
            {"start_from": 1, **no_replay},
        ),
    }


@pytest.mark.parametrize("case", sorted(bad_jobs()))
def test_the_gate_stops_what_is_not_better(
    tuning: Tuning, up: Up, desk: dict[str, Any], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Each is registered, rejected for the part that it fails, and promoted by nobody without force and a reason."""
    rows, hyperparameters, ostler = bad_jobs()[case]
    seen = tuning.run(rows, **supervised(hyperparameters), **asked("desk", **ostler))
    job = seen["job"]
    assert (job["status"], job["error"]["code"]) == ("failed", "rejected_by_gate"), job["error"]
    assert job["fine_tuned_model"] is None
    number = int(job["ostler"]["candidate"].partition("@")[2])
    made = tuning.version("desk", number)
    with capsys.disabled():
        print(f"\n{case}: {made['report']['reason']}")
    assert made["verdict"] == "rejected"
    missed = {each["name"] for each in made["report"]["parts"] if not each["passed"]}
    expected = "quality" if case == "no_better" else case
    assert expected in missed
    assert part(made["report"], expected)["reason"] in job["error"]["message"]
    if case == "no_better":
        assert missed == {"quality"}
        assert part(made["report"], "quality")["high"] >= 0
    refused = up.cli("promote", "desk", str(number))
    assert refused.returncode == 1
    assert "rejected by its gate" in refused.stderr


def test_preferences_are_learned(tuning: Tuning, desk: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """DPO from the live version: the share of holdout pairs whose preferred answer is the likelier one rises."""
    rows = [pair.row for pair in pairs(200, seed=43)]
    hyperparameters = {"batch_size": 16, "n_epochs": 2, "learning_rate_multiplier": 10.0}
    method = {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}
    seen = tuning.run(rows, method=method, **asked("desk", start_from=1, holdout_share=0.3, replay_share=0.0))
    job = seen["job"]
    number = int(job["ostler"]["candidate"].partition("@")[2])
    preferred = part(tuning.version("desk", number)["report"], "quality")
    with capsys.disabled():
        print(f"\npreferred: {preferred['reference']:.3f} before, {preferred['candidate']:.3f} after; {job['error']}")
    assert preferred["passed"], preferred["reason"]
    assert preferred["candidate"] > preferred["reference"] + 0.1


def wait_for_half(up: Up, adapter: str) -> int:
    """Wait until an adapter's job is half trained; its step then."""
    deadline = time.monotonic() + 240
    with up.http() as http:
        while time.monotonic() < deadline:
            for job in http.get("/v1/fine_tuning/jobs", params={"limit": 5}).json()["data"]:
                if job["ostler"]["adapter"] == adapter:
                    for event in http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]:
                        data = event["data"] or {}
                        if 2 * data.get("step", 0) >= data.get("total_steps", 10**9):
                            return int(data["step"])
            time.sleep(0.2)
    raise AssertionError("no job was half trained")
