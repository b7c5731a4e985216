"""The README and the page of the architecture stay true: the file tree, links, and the request that it begins with."""

import re
import subprocess
from pathlib import Path

import pytest

import demo
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.lora import check_adapter
from registry.names import engine_name

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS_IN_FULL = ("agent", "ostler", "gateway", "registry", "monitors", "tuner")


def tree() -> set[str]:
    """The paths of the architecture's file tree: a folder at the margin, its files below it."""
    block = ARCHITECTURE.partition("## The files")[2].partition("```\n")[2].partition("```")[0]
    found, folder = set(), ""
    for line in block.splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            found.add(folder + name)
        else:
            folder = name
            found.add(name)
    return found


def test_every_path_in_the_tree_exists() -> None:
    """And there is one line for each."""
    assert [path for path in sorted(tree()) if not (ROOT / path).exists()] == []


def test_every_module_of_the_rooms_is_in_the_tree() -> None:
    """A new file comes with its line."""
    modules = {f"{room}/{file.name}" for room in ROOMS_IN_FULL for file in (ROOT / room).glob("*.py")}
    assert {path for path in modules - tree() if "__" not in path} == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Those to files of the repository."""
    targets = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_first_request_is_the_demos_example() -> None:
    """So what the README shows is what a newcomer sees."""
    assert README.count(demo.EXAMPLE_MESSAGE) == 2


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=["README", "architecture"])
def test_engine_names_are_the_demos(page: str, tmp_path: Path) -> None:
    """Those that are shown are those that a newcomer meets."""
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    base = BaseSpec(demo.BASE_NAME, config=read_config(str(demo.BASE_DIR)))
    names = set()
    for version in demo.ADAPTERS:
        checked = check_adapter(version.folder, base)
        digest = store.put(version.folder, checked.files, checked.config).digest
        names.add(engine_name(version.name, version.version, digest))
    assert set(re.findall(r"support@\d-[0-9a-f]{8}", page)) == names


def test_nothing_is_left_to_be_filled_in() -> None:
    """No placeholder in capitals with an underscore but the names of settings."""
    words = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", README))
    ours = ("OSTLER_", "XDG_", "VLLM_", "FULL_SIZE")
    assert {word for word in words if not word.startswith(ours)} == set()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_lines_are_no_longer_than_code(page: str) -> None:
    """Where it is text: what is pasted stays in one line, and so does a row of a table."""
    in_code = False
    for line in (ROOT / page).read_text().splitlines():
        in_code ^= line.startswith("```")
        assert in_code or line.startswith("|") or len(line) <= 120, line


def test_the_doors_are_in_the_readme() -> None:
    """Whoever comes to install Ostler finds where, before anything else."""
    (first,) = re.findall(r"^## Three ways to run it$(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    pages = ("quickstart", "images", "kubernetes", "backup", "upgrading", "operating")
    assert [page for page in pages if f"](docs/{page}.md" not in first] == []
    assert "](helm/README.md)" in first


def test_make_help_tells_every_target() -> None:
    """One line each, in two columns."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+) \$\(STEPS\)$", makefile, re.M)[0].split())
    targets |= set(re.findall(r"^STEPS := (.+)$", makefile, re.M)[0].split())
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split()[1] for line in told} == targets - {"help"}
    assert len({re.match(r"make \S+ +", line).end() for line in told}) == 1  # type: ignore[union-attr]
