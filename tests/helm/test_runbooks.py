"""The runbooks: a section for each alert, and commands that there are."""

import re
from typing import Any

import pytest
import typer

from ostler.cli import app
from tests.helm.tools import ROOT, rules

RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
ALERTS = {rule["alert"] for rule in rules("alerts.yaml")}
# In code, whether a block or a piece of a sentence, which may go on in the next line.
COMMANDS = sorted(
    {
        " ".join(found.split())
        for found in re.findall(r"^(ostler .+)$", RUNBOOKS, re.M) + re.findall(r"`(ostler\s[^`]+)`", RUNBOOKS)
    }
)


def test_every_section_is_of_an_alert_that_there_is() -> None:
    """And none is missing."""
    assert set(re.findall(r"^### (\w+)$", RUNBOOKS, re.M)) == ALERTS


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_a_section_names_the_alerts_severity(alert: str) -> None:
    """First of all, as it says how much hurry there is."""
    (severity,) = [rule["labels"]["severity"] for rule in rules("alerts.yaml") if rule["alert"] == alert]
    assert f"### {alert}\n\n`{severity}`. " in RUNBOOKS


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_a_section_says_what_to_do(alert: str) -> None:
    """Whoever is woken finds it by its first word."""
    section = RUNBOOKS.partition(f"### {alert}\n")[2].partition("\n##")[0]
    assert re.search(r"\bDo[:,] ", section)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_the_clis_own(command: str) -> None:
    """A person at night pastes them."""
    _, *words = command.split()
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands"):
        name = words.pop(0)
        assert name in found.commands, f"there is no command {name}"
        found = found.commands[name]
    found.make_context(found.name, words)  # reads the words as the command would, and does nothing


def test_links_between_sections_lead_somewhere() -> None:
    """By their anchors."""
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^##+ (.+)$", RUNBOOKS, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOKS)) <= anchors
