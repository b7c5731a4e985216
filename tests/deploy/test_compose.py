"""compose.yaml and what it mounts: right by the specification, and true to what the processes expect."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml  # type: ignore[import-untyped]
from pydantic_settings import BaseSettings

from agent.settings import AgentSettings
from gateway.settings import GatewaySettings
from monitors.settings import MonitorSettings
from registry.keys import check_secret
from tuner.settings import TunerSettings

ROOT = Path(__file__).resolve().parents[2]
KINDS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "migrate": GatewaySettings,
    "monitor": MonitorSettings,
    "tuner": TunerSettings,
    "tuner-gpu": TunerSettings,
    "agent": AgentSettings,
}
OURS = {*KINDS, "engine", "engine-cpu", "folders", "demo"}
ONE_SHOTS = {"migrate", "folders", "demo"}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def env_file(folder: Path) -> dict[str, str]:
    """What make-env.sh writes."""
    (folder / "deploy/compose").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "deploy/compose/make-env.sh", folder / "deploy/compose")
    subprocess.run([folder / "deploy/compose/make-env.sh"], check=True, capture_output=True)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def filled_in(value: Any, variables: dict[str, str]) -> Any:
    """The document with variables in their places, as Compose fills them in; one that must be there raises KeyError."""
    if isinstance(value, dict):
        return {key: filled_in(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(lambda at: variables.get(at[1]) or (at[3] if at[2] == "-" else variables[at[1]]), value)


@pytest.fixture(scope="session")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """compose.yaml with an .env that was just made."""
    found: dict[str, Any] = filled_in(
        yaml.safe_load((ROOT / "compose.yaml").read_text()), env_file(tmp_path_factory.mktemp("compose"))
    )
    return found


@pytest.fixture(scope="session")
def services(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its services."""
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def test_it_is_right_by_the_specification(document: dict[str, Any]) -> None:
    """Every key is known, and every value of the right kind."""
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(document)).validate()


def test_nothing_starts_without_secrets_of_ones_own() -> None:
    """There are no default passwords, and the message says how to make some."""
    text = (ROOT / "compose.yaml").read_text()
    required = {name for name, kind, words in VARIABLE.findall(text) if kind == "?" and "make-env.sh" in words}
    assert required == {
        "OSTLER_API_KEY",
        "OSTLER_AGENT_TOKEN",
        "POSTGRES_PASSWORD",
        "S3_SECRET_KEY",
        "GRAFANA_PASSWORD",
    }


def test_the_secrets_file_is_private_and_kept(tmp_path: Path) -> None:
    """Its secrets are long and differ, others cannot read it, and a second run changes nothing."""
    first = env_file(tmp_path)
    assert len(set(first.values())) == len(first) == 5
    assert all(len(secret) >= 48 for secret in first.values())
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert env_file(tmp_path) == first
    assert {".env", ".secrets/"} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_prometheus_key_is_a_file_that_it_alone_is_given(tmp_path: Path, document: dict[str, Any]) -> None:
    """Readable in its container, whose user is another, and here for nobody else; a second run keeps it."""
    env_file(tmp_path)
    key = tmp_path / document["secrets"]["metrics-key"]["file"]
    secret = key.read_text()
    check_secret(secret)
    assert secret not in (tmp_path / ".env").read_text()
    assert key.stat().st_mode & 0o777 == 0o644
    assert key.parent.stat().st_mode & 0o077 == 0
    env_file(tmp_path)
    assert key.read_text() == secret
    given = {name for name, service in document["services"].items() if "metrics-key" in service.get("secrets", [])}
    assert given == {"prometheus", "migrate"}
    [gateway] = [
        job
        for job in yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())["scrape_configs"]
        if "authorization" in job
    ]
    assert gateway["job_name"] == "ostler-gateway"
    assert gateway["authorization"] == {"credentials_file": "/run/secrets/metrics-key"}


def test_the_admins_key_is_with_those_that_use_it(services: dict[str, dict[str, Any]]) -> None:
    """A gateway finds keys in the database, so the process that clients talk to holds none."""
    given = {name for name, service in services.items() if "OSTLER_API_KEY" in service.get("environment", {})}
    assert given == {"migrate", "monitor", "tuner", "tuner-gpu", "demo"}


def test_secrets_are_files_where_the_rest_is_read_only(document: dict[str, Any]) -> None:
    """Docker copies other secrets into a container, which it cannot if that is read-only, and refuses to start it."""
    assert all(set(secret) == {"file"} for secret in document["secrets"].values())


def test_the_made_key_is_one_that_may_become_an_admins(services: dict[str, dict[str, Any]]) -> None:
    """`ostler keys ensure` would refuse a weak one."""
    check_secret(services["migrate"]["environment"]["OSTLER_API_KEY"])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_settings_are_accepted_by_their_process(
    name: str, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable is a setting of some process of ours, and its value a right one."""
    known = {f"OSTLER_{field.upper()}" for kind in KINDS.values() for field in kind.model_fields}
    environment = services[name]["environment"]
    assert {variable for variable in environment if variable.startswith("OSTLER_")} <= known
    for variable in [variable for variable in os.environ if variable.startswith("OSTLER_")]:
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    KINDS[name]()


def test_ports_are_those_that_the_processes_listen_on(services: dict[str, dict[str, Any]]) -> None:
    """The gateway's addresses of its engine, its agent, the other servers, and the engine's own port."""
    gateway = services["gateway"]["environment"]
    assert gateway["OSTLER_ENGINE_URL"] == "http://engine:8000"
    assert gateway["OSTLER_ENGINE_AGENT_PORT"] == str(AgentSettings.model_fields["agent_port"].default)
    assert gateway["OSTLER_LIMITS_URL"] == "redis://valkey:6379"
    assert services["monitor"]["environment"]["OSTLER_URL"] == "http://gateway:8080"
    assert vllm_flags(services)["port"] == "8000"
    assert services["s3"]["command"][:2] == ["--port", ":7070"]
    assert gateway["AWS_ENDPOINT_URL"] == "http://s3:7070"


@pytest.mark.parametrize("engine", ["engine-cpu", "engine-gpu"])
def test_an_engine_shares_its_agents_network_and_sees_its_versions(
    engine: str, services: dict[str, dict[str, Any]]
) -> None:
    """So the agent reaches it on loopback, and the engine reads versions, at the same path, and writes none."""
    assert services[engine]["network_mode"] == services["agent"]["network_mode"] == "service:engine"
    assert "versions:/var/lib/ostler/versions" in services["agent"]["volumes"]
    assert "versions:/var/lib/ostler/versions:ro" in services[engine]["volumes"]


def test_a_restart_of_the_agent_leaves_the_engine_its_network(services: dict[str, dict[str, Any]]) -> None:
    """It belongs to neither of them, but to a container that does nothing, so nothing ends it."""
    holder = services["engine"]
    assert holder["entrypoint"] == ["tini", "--", "sleep", "infinity"]
    assert (holder["image"], holder["restart"]) == (services["agent"]["image"], "unless-stopped")
    assert "network_mode" not in holder
    assert not {"environment", "volumes", "ports"} & holder.keys()
    assert services["agent"]["depends_on"]["engine"] == {"condition": "service_started"}


def vllm_flags(services: dict[str, dict[str, Any]], engine: str = "engine-gpu") -> dict[str, str]:
    """The flags of an engine with their values, as the last of a name wins."""
    pairs = (part.partition(" ") for part in f" {services[engine]['command'].strip()}".split(" --")[1:])
    return {name: value for name, _, value in pairs}


def test_a_gpu_engine_is_sized_in_the_settings_file(document: dict[str, Any], tmp_path: Path) -> None:
    """By the variables that make-env.sh writes down, with any flag of vLLM's, which wins over ours."""
    made = env_file(tmp_path)
    offered = dict(re.findall(r"^#(\w+)=(.*)$", (tmp_path / ".env").read_text(), flags=re.MULTILINE))
    assert {"ENGINE_MAX_MODEL_LEN", "ENGINE_GPU_MEMORY", "ENGINE_ARGS", "OSTLER_BASE_MODEL"} <= offered.keys()
    plain = vllm_flags(document["services"])
    assert (plain["max-model-len"], plain["gpu-memory-utilization"]) == ("auto", "0.9")
    given = made | offered | {"ENGINE_MAX_MODEL_LEN": "8192", "ENGINE_ARGS": "--max-lora-rank 64 --quantization fp8"}
    sized = filled_in(yaml.safe_load((ROOT / "compose.yaml").read_text()), given)["services"]
    flags = vllm_flags(sized)
    assert (flags["max-model-len"], flags["max-lora-rank"], flags["quantization"]) == ("8192", "64", "fp8")
    assert flags["model"] == offered["OSTLER_BASE_MODEL"] == sized["gateway"]["environment"]["OSTLER_BASE_MODEL"]
    assert flags["served-model-name"] == sized["gateway"]["environment"]["OSTLER_BASE"]
    assert shlex.split(sized["engine-gpu"]["command"])[-4:] == ["--max-lora-rank", "64", "--quantization", "fp8"]


def test_the_cpu_engine_is_the_images_but_for_the_model(document: dict[str, Any], tmp_path: Path) -> None:
    """It serves what the settings file has the gateway expect; the demo's adapter is for the demo's model alone."""
    image = (ROOT / "Dockerfile").read_text().partition("AS engine-cpu\n")[2]
    [words] = re.findall(r"^CMD (\[.*?\])$", image.replace("\\\n", " "), flags=re.MULTILINE)
    assert shlex.split(document["services"]["engine-cpu"]["command"]) == json.loads(words)

    named = env_file(tmp_path) | {"OSTLER_BASE": "qwen3", "OSTLER_BASE_MODEL": "Qwen/Qwen3-0.6B"}
    services = filled_in(yaml.safe_load((ROOT / "compose.yaml").read_text()), named)["services"]
    flags, gateway = vllm_flags(services, "engine-cpu"), services["gateway"]["environment"]
    assert (flags["served-model-name"], flags["model"]) == (gateway["OSTLER_BASE"], gateway["OSTLER_BASE_MODEL"])
    assert flags["served-model-name"] == services["demo"]["environment"]["OSTLER_BASE"] == "qwen3"


@pytest.mark.parametrize(("base", "pushes"), [("ostler-tiny", True), ("qwen3", False)])
def test_the_demo_pushes_to_the_demos_model_alone(
    base: str, pushes: bool, services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """With another one it says so and ends, and does not wait for what never comes."""
    asked = tmp_path / "asked"
    for program, said in (("python3", ":"), ("ostler", f'echo "$@" >> {asked}; [ "$1" != show ]')):
        (tmp_path / program).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / program).chmod(0o755)
    script = services["demo"]["command"][0].replace("$$", "$")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OSTLER_BASE": base}
    ran = subprocess.run(
        ["sh", "-euc", script], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert ran.returncode == 0
    assert (asked.exists() and "--adapter support" in asked.read_text()) is pushes
    assert ("qwen3: nothing is pushed" in ran.stdout) is not pushes


def test_kernels_that_a_gpu_compiles_can_be_loaded(services: dict[str, dict[str, Any]]) -> None:
    """A tmpfs is noexec unless it says otherwise; a tuner compiles into its volume."""
    assert services["engine-gpu"]["tmpfs"] == ["/tmp:exec", "/var/lib/ostler:exec,uid=10001,gid=10001"]
    assert "tuning:/var/lib/ostler" in services["tuner-gpu"]["volumes"]
    assert not [mount for mount in services["tuner-gpu"]["tmpfs"] if mount.startswith("/var/lib/ostler")]


def test_nothing_waits_for_a_model_to_be_downloaded(services: dict[str, dict[str, Any]]) -> None:
    """A download takes as long as it takes: nothing depends on an engine, nor on a gateway that has one."""
    waited_for = {other for service in services.values() for other in service.get("depends_on", {})}
    assert not waited_for & {"engine-cpu", "engine-gpu"}
    assert "healthcheck" not in services["gateway"]  # the image's own asks /livez
    assert "/readyz" in services["demo"]["command"][0]


def test_images_of_ours_are_never_asked_of_a_registry_that_is_not_ours(services: dict[str, dict[str, Any]]) -> None:
    """They are built; what only runs one of them takes that one."""
    for name, service in services.items():
        ours = service["image"].startswith("ostler/")
        assert ours == (name in OURS)
        assert service.get("pull_policy") == (("build" if "build" in service else "never") if ours else None), name
    built = {service["image"] for service in services.values() if "build" in service}
    assert built == {service["image"] for name, service in services.items() if name in OURS}


def test_both_engines_are_guarded(services: dict[str, dict[str, Any]]) -> None:
    """Others than the agent cannot load versions."""
    image = (ROOT / "Dockerfile").read_text().partition("AS engine-cpu\n")[2]
    assert '"--middleware", "engine_guard.LoopbackOnly"' in image
    for engine in ("engine-cpu", "engine-gpu"):
        assert vllm_flags(services, engine)["middleware"] == "engine_guard.LoopbackOnly"


def test_ports_are_open_on_this_machine_alone(services: dict[str, dict[str, Any]]) -> None:
    """The gateway's, and those of what shows metrics; no database's, engine's or agent's."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "prometheus", "alertmanager", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_every_container_is_kept_small_in_what_it_may(services: dict[str, dict[str, Any]]) -> None:
    """Read-only, without capabilities or new ones, and none of them root."""
    images_with_a_user = {"prometheus", "alertmanager", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name in OURS | images_with_a_user or service["user"] in {"10001:10001", "999:999", "postgres"}, name
        assert service.get("user", "") not in {"root", "0", "0:0"}
        assert "privileged" not in service


def test_everything_that_stays_is_watched_and_has_time_to_end(services: dict[str, dict[str, Any]]) -> None:
    """Ours by the images' own check at least, the others by one that stands here."""
    for name, service in services.items():
        if name in ONE_SHOTS:
            assert service["restart"] == "no"
            assert service["healthcheck"] == {"disable": True} if name != "folders" else True
            continue
        if name == "engine":  # which does nothing
            assert service["healthcheck"] == {"disable": True}
            continue
        assert name in OURS or "test" in service["healthcheck"], name
        assert name not in OURS or "stop_grace_period" in service, name


def test_what_is_waited_for_is_there(services: dict[str, dict[str, Any]]) -> None:
    """One-shots for their end, and servers until they are well (or only there, where nothing can ail).

    None is in a profile that may not be started.
    """
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            well = "service_started" if other == "engine" else "service_healthy"
            ends = "service_completed_successfully" if other in ONE_SHOTS else well
            assert wanted == {"condition": ends}, (name, other)
            assert "profiles" not in services[other]


def test_images_are_named_without_a_registry(services: dict[str, dict[str, Any]]) -> None:
    """With a tag, and a prefix for those who have a mirror."""
    text = (ROOT / "compose.yaml").read_text()
    assert all(re.fullmatch(r"[a-z-]+(/[a-z-]+)?:[\w.-]+", service["image"]) for service in services.values())
    ours, others = r"\$\{OSTLER_IMAGES:-\}ostler/", r"\$\{IMAGE_REGISTRY:-\}(?!ostler/)"
    assert len(re.findall(rf"image: .*({ours}|{others})", text)) == len(re.findall(r"image: (?!\*)", text))


def test_every_file_and_volume_that_is_mounted_exists(document: dict[str, Any]) -> None:
    """In the folder, or in the list of volumes, and none of these is unused."""
    used = set()
    for service in document["services"].values():
        for source in (mount.partition(":")[0] for mount in service.get("volumes", [])):
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            else:
                used.add(source)
    assert used == set(document["volumes"])
    assert {net for service in document["services"].values() for net in service.get("networks", [])} == set(
        document["networks"]
    )


def test_prometheus_scrapes_every_process_by_the_name_it_has(services: dict[str, dict[str, Any]]) -> None:
    """At its own port, on a network that both are in, with the rules and the Alertmanager."""
    configuration = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    targets = []
    for job in configuration["scrape_configs"]:
        for found in job.get("static_configs", []):
            targets += [tuple(target.split(":")) for target in found["targets"]]
        for found in job.get("dns_sd_configs", []):
            targets += [(name, str(found["port"])) for name in found["names"]]
    assert set(targets) == {
        *(("gateway", "8080"), ("monitor", "8081"), ("tuner", "8082"), ("tuner-gpu", "8082")),
        *(("engine", "8083"), ("engine", "8000")),
    }
    assert all(set(services[host]["networks"]) & set(services["prometheus"]["networks"]) for host, _ in targets)
    assert configuration["rule_files"] == ["/etc/prometheus/rules/*.yaml"]
    assert "./helm/rules:/etc/prometheus/rules:ro" in services["prometheus"]["volumes"]
    assert configuration["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]


def test_grafana_finds_its_data_and_its_dashboards(services: dict[str, dict[str, Any]]) -> None:
    """By what is provisioned, at the paths that are mounted."""
    folder = ROOT / "deploy/compose/grafana"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards/ostler.yaml").read_text())["providers"]
    assert (source["url"], source["type"], source["isDefault"]) == ("http://prometheus:9090", "prometheus", True)
    assert f"./helm/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./deploy/compose/grafana:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])


def test_alertmanager_has_the_receivers_that_it_names() -> None:
    """Each route's."""
    configuration = yaml.safe_load((ROOT / "deploy/compose/alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in configuration["receivers"]}
    routes = [configuration["route"], *configuration["route"]["routes"]]
    assert {route["receiver"] for route in routes} <= receivers
