"""What a checkpoint knows of its training."""

import time
from pathlib import Path

import pytest

from tests.tuner.training.samples import planned
from tuner.training.begun import Begun, Clock


def test_it_reads_as_it_was_written(tmp_path: Path) -> None:
    """With the plan, and the time so far."""
    known = Begun(planned(), 12.5, 50.0)
    known.write(tmp_path)
    assert Begun.read(tmp_path) == known


@pytest.mark.parametrize(("device", "gpu_seconds"), [("cuda", 50.0 + 4 * 7.0), ("cpu", 50.0)])
def test_time_goes_on_from_the_checkpoint(monkeypatch: pytest.MonkeyPatch, device: str, gpu_seconds: float) -> None:
    """Seconds are added up, and each GPU's."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    plan = planned(device=device, processes=4)
    clock = Clock(Begun(plan, 12.5, 50.0))
    now += 7.0
    assert clock.now() == Begun(plan, 19.5, gpu_seconds)
