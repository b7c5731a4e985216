"""The recipe itself, with a few steps of each training."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from demo import BASE_DIR
from demo.recipe import QUICK, Sizes, main

ROOT = BASE_DIR.parents[1]


def quick_runs(outs: Sequence[Path], seed: int) -> list[dict[str, bytes]]:
    """Run the quick recipe in a process for each folder, at once; each one's weight and tokenizer files by path."""
    quick = [sys.executable, "-m", "demo.recipe", "--quick", "--threads", "1", "--seed", str(seed)]
    running = [subprocess.Popen([*quick, "--out", str(out)], cwd=ROOT) for out in outs]
    assert [process.wait(500) for process in running] == [0] * len(running)
    return [written(out) for out in outs]


def written(out: Path) -> dict[str, bytes]:
    """The files of a run, without what it says of itself."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "recipe.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two processes with one seed write identical files, in the layout that ships."""
    first, second = quick_runs([tmp_path / "first", tmp_path / "second"], seed=7)
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()
    versions = [first[f"adapters/support/{number}/adapter_model.safetensors"] for number in (1, 2)]
    assert versions[0] != versions[1]
    shipped = {str(path.relative_to(BASE_DIR.parent)) for path in (BASE_DIR.parent / "adapters").rglob("*.*")}
    assert shipped <= first.keys()


def test_version_1_is_trained_on_less() -> None:
    """In each mode the earlier version sees fewer tickets than the later one."""
    assert all(sizes.tickets[1] < sizes.tickets[2] for sizes in (QUICK, Sizes()))


def test_a_quick_run_never_replaces_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder of its own the quick mode is refused, as its weights are no good."""
    with pytest.raises(SystemExit):
        main(["--quick"])
    assert "--out" in capsys.readouterr().err


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt step ends the command with the names of the steps."""
    with pytest.raises(SystemExit):
        main(["--only", "trian"])
    assert "evaluate" in capsys.readouterr().err
