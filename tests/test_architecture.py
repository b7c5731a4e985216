"""Who may import whom, and what a process may carry: the rules that keep the rooms apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("agent", "ostler", "gateway", "monitors", "registry", "tuner", "demo", "benchmarks")

# What each room may import of ours, beside itself.
ALLOWED = {
    "agent": {"registry"},
    "registry": set(),
    "monitors": {"registry"},
    "gateway": {"monitors", "registry"},
    "tuner": {"monitors", "registry"},
    "ostler": {"agent", "gateway", "monitors", "registry", "tuner", "demo"},
    "demo": {"monitors"},
    "benchmarks": {"gateway", "monitors", "registry", "tuner", "demo"},
}
# Heavy libraries, and the only places that may import them.
HEAVY = {
    "torch": ("tuner/", "demo/", "benchmarks/tuner.py"),
    "transformers": ("tuner/", "demo/", "benchmarks/tuner.py"),
    "tokenizers": ("tuner/", "demo/"),
    "peft": ("tuner/", "demo/", "benchmarks/tuner.py"),
    "trl": ("tuner/", "demo/", "benchmarks/tuner.py"),
    "bitsandbytes": ("tuner/", "demo/"),
    "datasketch": ("tuner/data/",),
    "presidio_analyzer": ("tuner/data/",),
    "spacy": ("tuner/data/",),
    "evidently": ("monitors/drift.py",),
    "pandas": ("monitors/drift.py", "tuner/"),
    "pyarrow": ("ostler/commands/", "benchmarks/"),
    "sklearn": ("monitors/judging/scorers.py", "monitors/drift.py"),
    "sacrebleu": ("monitors/judging/scorers.py",),
    "rouge_score": ("monitors/judging/scorers.py",),
    "py3langid": ("monitors/drifting/windows.py",),
    "kubernetes": ("tuner/cluster/",),
    "vllm": ("ostler/engine_plugin.py",),  # which vLLM itself loads
}


def modules() -> Iterator[Path]:
    """Every module of ours."""
    for room in ROOMS:
        if (ROOT / room).is_dir():
            yield from sorted((ROOT / room).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The top-level names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(room for room in ALLOWED if (ROOT / room).is_dir()))
def test_imports_between_rooms_go_one_way(room: str) -> None:
    """Each room imports only those that the design lets it."""
    for file in sorted((ROOT / room).rglob("*.py")):
        wrong = imported(file) & (set(ROOMS) - ALLOWED[room] - {room})
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_heavy_libraries_stay_in_their_rooms() -> None:
    """Torch and its like are imported only where models are made, vLLM nowhere."""
    for file in modules():
        place = file.relative_to(ROOT).as_posix()
        for library in imported(file) & HEAVY.keys():
            assert place.startswith(HEAVY[library] or ("nowhere",)), f"{place} imports {library}"


def test_the_gateways_process_imports_no_heavy_library() -> None:
    """Also not through what it imports."""
    code = "import sys, ostler.serve, gateway.app; print(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not loaded & {
        "numpy",
        "torch",
        "vllm",
        "evidently",
        "pandas",
        "transformers",
        "peft",
        "alembic",
        "sklearn",
        "pyarrow",
        "kubernetes",
    }


def test_an_agents_process_carries_neither_a_database_nor_other_rooms() -> None:
    """Its image has none of them."""
    code = "import sys, ostler.cli, ostler.agents; print(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not loaded & {"gateway", "monitors", "demo"}
    assert not loaded & {"sqlalchemy", "sqlmodel", "alembic", "asyncpg", "redis", "limits", "numpy", "phonenumbers"}


def test_a_command_of_the_cli_starts_without_the_server_libraries() -> None:
    """`ostler list` is quick because it imports neither Litestar nor SQLAlchemy."""
    code = "import sys, ostler.cli; print(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in ran.stdout.split()} & {"litestar", "sqlalchemy", "uvicorn", "numpy"}


@pytest.mark.parametrize("file", sorted(modules()), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_for(file: Path) -> None:
    """In its first lines."""
    assert ast.get_docstring(ast.parse(file.read_text())), "no docstring"
