"""What the chart puts into a process' environment is what that process reads, and it takes the values."""

import base64
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from agent.settings import AgentSettings
from gateway.settings import GatewaySettings
from monitors.settings import MonitorSettings, StorageSettings
from tests.helm.chart import VALUE_SETS, Json, Rendered, Workload, rendered
from tuner.settings import TunerSettings

each_set = pytest.mark.parametrize("value_set", VALUE_SETS)

# The command of a container, as its first argument, and the settings that it reads.
SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "monitor": MonitorSettings,
    "tuner": TunerSettings,
    "agent": AgentSettings,
    "migrate": StorageSettings,
    "keys": StorageSettings,
}
# Read by the command `ostler` itself, or by the libraries beneath.
OTHERS = {"OSTLER_API_KEY", "OSTLER_URL"}
# What stands for a secret that somebody else has made.
SECRETS = {
    "OSTLER_DATABASE_URL": "postgresql://ostler:secret@database:5432/ostler",
    "OSTLER_LIMITS_URL": "redis://a:6379",
}
LOOK_UP_S, DNS_TTL_S = 5, 30  # of the gateways, and of CoreDNS in kubeadm's configuration
# Longer than the process takes to say goodbye once it has drained.
GOODBYE_S = 5


def process_of(container: Json) -> str:
    """Which of our commands a container runs; empty for other programs."""
    words = [*container.get("command", []), *container.get("args", [])]
    if "ostler" in words:
        words = words[words.index("ostler") + 1 :]
    elif container.get("command"):
        return ""
    return words[0] if words and words[0] in SETTINGS else ("tuner" if container["name"] == "tuner" else "")


def environment(chart: Rendered, container: Json) -> dict[str, str]:
    """A container's variables as it would see them; those of others' Secrets are made up."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source and (made := chart.named("ConfigMap", source["configMapRef"]["name"])):
            found |= made["data"]
    for variable in container.get("env", []):
        value = variable.get("value", "") if "valueFrom" not in variable else _from(chart, variable)
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), value)
    return found


def _from(chart: Rendered, variable: Json) -> str:
    source = variable["valueFrom"]
    if reference := source.get("configMapKeyRef"):
        made = chart.named("ConfigMap", reference["name"])
        return str(made["data"][reference["key"]]) if made else "declared"
    if reference := source.get("secretKeyRef"):
        made = chart.named("Secret", reference["name"])
        if made and reference["key"] in (made.get("stringData") or {}):
            return str(made["stringData"][reference["key"]])
        if made:
            return base64.b64decode(made["data"][reference["key"]]).decode()
        return SECRETS.get(variable["name"], "secret")
    return "4" if "resourceFieldRef" in source else "made-by-kubernetes"


def processes(value_set: str) -> list[tuple[Workload, Json, str]]:
    """Our containers: their pods, themselves, and the commands that they run."""
    found = [(pods, each, process_of(each)) for pods in rendered(value_set).workloads for each in pods.containers]
    return [(pods, each, process) for pods, each, process in found if process]


def test_every_process_is_looked_at() -> None:
    """One that is not recognised would pass unseen."""
    found = {process for value_set in VALUE_SETS for _, _, process in processes(value_set)}
    assert found == SETTINGS.keys()


@pytest.fixture
def _nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no ostler.toml
    for name in [name for name in os.environ if name.startswith("OSTLER_")]:
        monkeypatch.delenv(name)


def settings_of(
    chart: Rendered, container: Json, process: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, str], Any]:
    """The variables of a container, and the settings that its process makes of them."""
    variables = environment(chart, container)
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return variables, SETTINGS[process]()


@pytest.mark.usefixtures("_nothing_else")
@each_set
def test_processes_take_their_environment(value_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is a setting of the process, which accepts the value."""
    for pods, container, process in processes(value_set):
        variables, settings = settings_of(rendered(value_set), container, process, monkeypatch)
        known = {f"OSTLER_{name.upper()}" for name in type(settings).model_fields} | OTHERS
        unknown = {name for name in variables if name.startswith("OSTLER_")} - known
        assert not unknown, f"{pods}: {process} knows no {', '.join(sorted(unknown))}"


@pytest.mark.usefixtures("_nothing_else")
@each_set
def test_processes_listen_where_the_chart_says(value_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every address of the pod, and on the port that the container names."""
    for pods, container, process in processes(value_set):
        if container not in pods.long_running:
            continue
        _, settings = settings_of(rendered(value_set), container, process, monkeypatch)
        prefix = "" if process == "gateway" else "agent_" if process == "agent" else f"{process}_"
        host = getattr(settings, f"{prefix}host", None) or settings.host
        port = getattr(settings, f"{prefix}port", None) or settings.port
        assert host in {"0.0.0.0", "::"}, f"{pods}: {process} listens on {host}"
        assert port in {each["containerPort"] for each in container["ports"]}, f"{pods}: {process} listens on {port}"


@pytest.mark.usefixtures("_nothing_else")
@each_set
def test_pods_have_time_to_drain(value_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes waits longer than the process needs for its last requests or its last training step."""
    for pods, container, process in processes(value_set):
        _, settings = settings_of(rendered(value_set), container, process, monkeypatch)
        if process == "gateway":
            needed = settings.drain_delay_s + settings.drain_s
        elif process == "tuner":
            needed = settings.tuner_stop_s
        else:
            continue
        grace = pods.spec["terminationGracePeriodSeconds"]
        assert grace >= needed + GOODBYE_S, f"{pods} has {grace} s and needs {needed + GOODBYE_S} s"


def engines(chart: Rendered) -> Iterator[tuple[Workload, Json, dict[str, str]]]:
    """Every vLLM: its pods, its container, and its arguments, each word with the one after it."""
    for pods in chart.workloads:
        for container in pods.containers:
            if container["name"] == "engine":
                yield pods, container, dict(itertools.pairwise([*container["args"], ""]))


def has_agent(pods: Workload) -> bool:
    """Whether an agent runs beside an engine."""
    return "agent" in [each["name"] for each in pods.containers]


@each_set
def test_engines_have_time_to_drain(value_set: str) -> None:
    """Kubernetes waits longer than the pause before vLLM is told to stop and its last requests together."""
    for pods, container, said in engines(rendered(value_set)):
        needed = pause_of(container) + int(said["--shutdown-timeout"]) + GOODBYE_S
        assert pods.spec["terminationGracePeriodSeconds"] >= needed, f"{pods} needs {needed} s"


def pause_of(container: Json) -> int:
    """Seconds between an engine's preStop and its SIGTERM."""
    script: str = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    return int(script.rpartition("sleep ")[2])


@each_set
def test_engines_are_drained_before_they_are_stopped(value_set: str) -> None:
    """The guard looks at the file that preStop touches, on a volume, for longer than DNS may tell the address."""
    for pods, container, said in engines(rendered(value_set)):
        assert pause_of(container) >= LOOK_UP_S + DNS_TTL_S, f"{pods}"
        if said.get("--middleware"):
            env = {each["name"]: each.get("value") for each in container["env"]}
            touched = container["lifecycle"]["preStop"]["exec"]["command"][-1].partition(";")[0]
            assert touched == f"touch {env['OSTLER_ENGINE_DRAIN_FILE']}", f"{pods}"
            assert "/tmp" in [each["mountPath"] for each in container["volumeMounts"]], f"{pods}"


@pytest.mark.usefixtures("_nothing_else")
@each_set
def test_the_gateway_knows_the_engines_as_they_are(value_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pool's base, its places for versions, its rank and its agents' port are those of its engines."""
    chart = rendered(value_set)
    (container,) = (each for _, each, process in processes(value_set) if process == "gateway")
    _, settings = settings_of(chart, container, "gateway", monkeypatch)
    told = {
        (pool.base, pool.engine_slots, pool.max_lora_rank, pool.engine_agent_port)
        for pool in settings.pools
        if pool.engine_dns
    }
    assert told == {
        (
            said["--served-model-name"],
            int(said["--max-cpu-loras"]),
            int(said["--max-lora-rank"]),
            8083 if has_agent(pods) else 0,
        )
        for pods, _, said in engines(chart)
    }


@each_set
def test_engines_with_agents_are_managed_by_these_alone(value_set: str) -> None:
    """Their vLLM has the guard, as a module that its Python finds; without an agent the gateways must get through."""
    for pods, engine, said in engines(rendered(value_set)):
        is_guarded = said.get("--middleware") == "engine_guard.LoopbackOnly"
        assert is_guarded is has_agent(pods), str(pods)
        mounted = {mount["mountPath"]: mount["name"] for mount in engine["volumeMounts"]}
        assert not is_guarded or mounted[environment(rendered(value_set), engine)["PYTHONPATH"]] == "engine-files"


@each_set
def test_agents_and_engines_see_versions_under_one_path(value_set: str) -> None:
    """One volume for both, which the engine only reads."""
    for pods in rendered(value_set).workloads:
        containers = {each["name"]: each for each in pods.containers}
        if "agent" in containers:
            folder = environment(rendered(value_set), containers["agent"])["OSTLER_AGENT_CACHE"]
            agent, engine = (
                next(mount for mount in containers[name]["volumeMounts"] if mount["mountPath"] == folder)
                for name in ("agent", "engine")
            )
            assert agent["name"] == engine["name"]
            assert engine["readOnly"]
            assert not agent.get("readOnly")
