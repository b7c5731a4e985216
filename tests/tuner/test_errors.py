"""The codes with which jobs fail."""

import re
from pathlib import Path

import tuner
from registry.tuning.states import FAILURES

_CODE = re.compile(r"\b(?:Job)?Failed\(\s*f?\"([a-z_{}]+)\"")


def test_every_code_is_declared() -> None:
    """So that metrics have them from the start, and alerts know whose fault each is."""
    root = Path(tuner.__file__).parent
    found = {code for file in root.rglob("*.py") for code in _CODE.findall(file.read_text())}
    templates = {code for code in found if "{" in code}
    assert templates <= {"invalid_{name}_file", "invalid_{param}"}
    assert found - templates <= set(FAILURES)
    assert {"disk_full", "evaluation_failed", "out_of_memory"} <= found
