"""The dispatcher as its operators see it: what it needs, and whether it is ready."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from ostler.client import CommandFailed
from ostler.tuners import run_tuner
from tests.conftest import until
from tests.fakes.kubernetes import NAMESPACE
from tests.tuner.cluster.conftest import JOB_TEMPLATE, World
from tuner.cluster import api
from tuner.cluster.app import create_dispatcher
from tuner.settings import TunerSettings


@pytest.fixture
def settings(world: World, monkeypatch: pytest.MonkeyPatch) -> TunerSettings:
    """Settings of a dispatcher whose kubeconfig names the fake cluster; it needs no key and no base model's files."""
    context = {"cluster": "fake", "user": "tuner", "namespace": NAMESPACE}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": world.fake.url}}],
        "users": [{"name": "tuner", "user": {"token": "t"}}],
        "contexts": [{"name": "fake", "context": context}],
        "current-context": "fake",
    }
    file = world.folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    template = world.folder / "job.yaml"
    template.write_text(JOB_TEMPLATE)
    return world.settings.model_copy(update={"tuner_job_template": template, "api_key": "", "base_model": ""})


async def test_it_is_ready_while_database_and_cluster_answer(world: World, settings: TunerSettings) -> None:
    """Alive throughout; its metrics say what is in the cluster."""
    job_id = await world.ask()
    app: Any = create_dispatcher(settings)
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tuner") as client,
    ):

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        async def is_not_ready() -> bool:
            return not await is_ready()

        await until(is_ready)
        await world.made()
        await world.until_said(job_id, "was made")
        assert (await client.get("/livez")).status_code == 200
        assert "ostler_tuning_cluster_up 1.0" in (await client.get("/metrics")).text
        world.fake.go_down()
        await until(is_not_ready)
        (problem,) = (await client.get("/readyz")).json()["problems"]
        assert problem == "the cluster's API server does not answer"
        assert (await client.get("/livez")).status_code == 200


def test_in_a_pod_it_asks_the_cluster_that_it_runs_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its service account, in its own namespace, unless a setting names another."""
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text("serving\n")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(api, "_NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setattr(api, "ApiClient", lambda settings: SimpleNamespace(configuration=settings))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = api.connect("")
    assert found.namespace == "serving"
    assert found._core.api_client.configuration.host == "https://10.0.0.1:443"
    assert api.connect("tuning").namespace == "tuning"


def test_without_a_cluster_it_says_so(
    world: World, settings: TunerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before it works; also without the name of its base model."""
    with pytest.raises(ValueError, match="set OSTLER_BASE"):
        create_dispatcher(settings.model_copy(update={"base": ""}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="run it in a pod with a service account, or set KUBECONFIG"):
        create_dispatcher(settings)


def test_the_command_names_what_a_dispatcher_lacks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names the setting, with the exit code of a wrong command line."""
    monkeypatch.setenv("OSTLER_DATABASE_URL", world.settings.database)
    monkeypatch.setenv("OSTLER_HOME", str(world.folder / "home"))
    monkeypatch.setenv("OSTLER_CACHE", str(world.folder / "cache"))
    given = {"tuner_backend": "kubernetes", "base": "tiny", "tuner_port": 0}
    with pytest.raises(CommandFailed, match="set OSTLER_TUNER_JOB_TEMPLATE") as failed:
        run_tuner(given)
    assert failed.value.exit_code == 2
    with pytest.raises(CommandFailed, match="tuner_backend: Input should be 'process' or 'kubernetes'"):
        run_tuner(given | {"tuner_backend": "swarm"})
