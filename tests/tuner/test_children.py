"""What a child process is started with."""

import sys
from pathlib import Path
from typing import Any

import pytest

from ostler.leash import MARK_VARIABLE
from tests.tuner.works import ORDER, at_work
from tuner import children
from tuner.children import run_task
from tuner.workspace import PrepareTask

_TELL = """
import json, os
print(json.dumps({"type": "done", "result": dict(os.environ)}))
"""


async def environment_of_a_child(folder: Path) -> dict[str, Any]:
    """The variables that a child of a job has."""
    work = at_work(folder)
    object.__setattr__(work.shop, "child_command", lambda *_: (sys.executable, "-c", _TELL))
    task = PrepareTask(order=ORDER, training="rows.jsonl", validation=None, tokenizer="", context=0)
    return (await run_task(work, task)).result


async def test_a_child_has_neither_settings_nor_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads what others sent, and knows from its task all that it must."""
    secrets = (
        "OSTLER_API_KEY",
        "OSTLER_DATABASE_URL",
        "OSTLER_HOME",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "OPENAI_API_KEY",
        "PGPASSWORD",
        "GOOGLE_APPLICATION_CREDENTIALS",
    )
    kept = {"HF_TOKEN": "hf", "HF_HOME": "home", "CUDA_VISIBLE_DEVICES": "1", "OSTLER_LEASH": "mark"}
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    found = await environment_of_a_child(tmp_path)
    assert found.keys().isdisjoint(secrets)
    assert {name: found[name] for name in kept} == kept
    assert (found["TOKENIZERS_PARALLELISM"], found["PYTHONHASHSEED"]) == ("false", "0")
    assert "PATH" in found


def test_the_mark_is_the_one_that_is_looked_for() -> None:
    """By whoever ends what is left of a killed tuner."""
    assert MARK_VARIABLE in children._KEPT
