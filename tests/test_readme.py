"""The README stays true: its file tree, its links, and the request that it begins with."""

import re
from pathlib import Path

import demo
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.lora import check_adapter
from registry.names import engine_name

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ROOMS_IN_FULL = ("ostler", "gateway", "registry", "monitors", "tuner")


def tree() -> set[str]:
    """The paths of the README's file tree: a folder at the margin, its files below it."""
    block = README.partition("### The files")[2].partition("```\n")[2].partition("```")[0]
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


def test_links_lead_somewhere() -> None:
    """Those to files of the repository."""
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_first_request_is_the_demos_example() -> None:
    """So what the README shows is what a newcomer sees."""
    assert README.count(demo.EXAMPLE_MESSAGE) == 2


def test_engine_names_are_the_demos(tmp_path: Path) -> None:
    """Those that are shown are those that a newcomer meets."""
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    base = BaseSpec(demo.BASE_NAME, config=read_config(str(demo.BASE_DIR)))
    names = set()
    for version in demo.ADAPTERS:
        checked = check_adapter(version.folder, base)
        digest = store.put(version.folder, checked.files, checked.config).digest
        names.add(engine_name(version.name, version.version, digest))
    assert set(re.findall(r"support@\d-[0-9a-f]{8}", README)) == names


def test_nothing_is_left_to_be_filled_in() -> None:
    """No placeholder in capitals with an underscore but the names of settings."""
    words = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", README))
    ours = ("OSTLER_", "XDG_", "VLLM_", "FULL_SIZE")
    assert {word for word in words if not word.startswith(ours)} == set()
