"""The quick start, run from its first command to its last, and each of its promises held against what was printed.

It comes after the tests that count the session's requests and versions, as it makes some of its own.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import Up

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAUSE = "=== "


def blocks() -> list[tuple[str, str]]:
    """The page's commands and what they promise, in their order, without the installation."""
    found = [(kind, body) for kind, body in BLOCK.findall(PAGE)]
    assert found[0] == ("sh", "make run\n")
    return found[1:]


def script(up: Up) -> str:
    """All commands for one shell, as a person has one; it ends with the first that fails, and marks each block."""
    parts = []
    for kind, body in blocks():
        if kind == "text":
            continue
        commands = f"python - <<'PYTHON'\n{body}PYTHON\n" if kind == "python" else body
        parts.append(f"{commands}echo '{PAUSE}'\n")
    text = "set -e\n" + "".join(parts)
    return text.replace("http://127.0.0.1:8080", up.url).replace("~/.local/share/ostler", str(up.folder / "home"))


def promised(up: Up) -> list[str]:
    """What each block of commands shall print, as a pattern; the page's dots stand for anything."""
    patterns: list[str] = []
    for kind, body in blocks():
        if kind != "text":
            patterns.append("")
        elif patterns:
            patterns[-1] = ".*".join(re.escape(part) for part in re.split(r"\s*\.\.\.\s*\.*", body.strip()))
    return patterns


def test_make_run_starts_what_the_page_says(up: Up) -> None:
    """The installation is another test's; what `make run` executes is `ostler up`, which printed what is promised."""
    recipe = subprocess.run(["make", "--dry-run", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert recipe.stdout.splitlines()[-1].strip() == "exec .venv/bin/ostler up"
    (kind, body), *_ = blocks()
    assert kind == "text"
    for line in body.splitlines():
        wanted = line.replace("http://127.0.0.1:8080", up.url).removesuffix("...")
        assert wanted.strip() in up.output


def test_every_command_does_what_the_page_promises(up: Up) -> None:
    """One shell, from the top: none fails, and each prints what stands below it."""
    binaries = ROOT / ".venv" / "bin"
    environment = up.environment() | {"PATH": f"{binaries}:{os.environ['PATH']}", "COLUMNS": "200"}
    ran = subprocess.run(
        ["bash", "-o", "pipefail"],
        input=script(up),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    outputs = ran.stdout.split(PAUSE + "\n")[:-1]
    patterns = promised(up)
    assert len(outputs) == len(patterns)
    for output, pattern in zip(outputs, patterns, strict=True):
        assert re.search(pattern, output, re.DOTALL), output
    assert '"stable": 2' in up.cli("show", "support", "--json").stdout
