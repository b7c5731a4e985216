"""Tuning on real parts: TRL, PEFT and bitsandbytes train, vLLM serves, the gate judges; through OpenAI's own SDK."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import demo
from demo.skills import skills
from demo.tickets import Ticket, training
from tests.engine.conftest import Up
from tests.engine.test_sdk import OLD_SDK, ROOT

pytestmark = pytest.mark.engine

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


@pytest.mark.parametrize(("version", "quantization"), [(3, "none"), (2, "nf4")], ids=["lora", "qlora"])
def test_a_file_becomes_a_served_model(
    tuning: Tuning, up: Up, capsys: pytest.CaptureFixture[str], version: int, quantization: str
) -> None:
    """By the SDK of either version: uploaded, trained, let through by the gate, and asked by its name; LoRA and QLoRA.

    Its loss falls, its checkpoints are listed, and vLLM gives the log probabilities that PEFT gave.
    """
    adapter = f"desk-{quantization}"
    rows = ticket_rows(training(TICKETS, seed=31)) + skill_rows(SKILLS)
    seen = tuning.run(
        rows,
        version=version,
        method={"type": "supervised", "supervised": {"hyperparameters": FAST}},
        metadata={"team": "support"},
        extra_body={"ostler": {"adapter": adapter, "quantization": quantization, "gate": GATE}},
    )
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
    made = tuning.version(adapter, 1)
    report = made["report"]
    with capsys.disabled():
        print(f"\n{adapter}@1: {report['reason']}")
        for each in report["parts"]:
            print(f"  {each['name']}: {each['difference']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})")
    assert report["passed"]
    assert all(each["passed"] for each in report["parts"])
    assert part(report, "quality")["low"] > 0.1
    assert part(report, "retention")["n"] > 0
    assert made["lineage"]["plan"]["quantization"] == quantization
    assert up.cli("promote", adapter, "1").returncode == 0
    verified = json.loads(up.cli("verify", adapter, "1", "--json").stdout)["data"]
    assert [(each["ok"], each["kind"]) for each in verified] == [(True, "probes")]
