"""The commands on the documentation's pages are the command line's own."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from ostler.cli import app

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"commands.md", "settings.md", "api.md", "api-shapes.md", "licences.md"}
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED]
FENCED = re.compile(r"^```(?:sh|bash)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(ostler [a-z].*)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Each command of a page's blocks that is said in full."""
    found = []
    for block in FENCED.findall(page.read_text()):
        joined = re.sub(r"\\\n\s*", " ", block)
        for line in PROMPT.findall(joined):
            found += [part.strip() for part in re.split(r"; (?=ostler )", line)]
    return [command for command in found if "..." not in command.split("#")[0]]


CLI: Any = typer.main.get_command(app)
COMMANDS = [(page.name, command) for page in (*PAGES, ROOT / "README.md") for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda words: str(words)[:60])
def test_a_command_is_read(page: str, command: str) -> None:
    """Each name, argument and option is one that there is; nothing is run."""
    _, *words = shlex.split(command, comments=True)
    found = CLI
    while hasattr(found, "commands"):
        name = words.pop(0)
        assert name in found.commands, f"{page}: there is no command {name}"
        found = found.commands[name]
    found.make_context(found.name, [word for word in words if word != "&"])


def test_there_are_many() -> None:
    """The search finds what it is to find."""
    assert len(COMMANDS) > 100
