"""Where a base model's config.json is found."""

import json
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.database import connect, migrate
from registry.errors import InvalidAdapter
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.registry.lora_samples import BASE


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the model org/tiny, laid out as the hub's client does; the file is not there yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--org--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc123")
    (model / "snapshots" / "abc123").mkdir(parents=True)
    return model / "snapshots" / "abc123" / "config.json"


def test_a_folder_and_a_downloaded_model_have_a_config(tmp_path: Path, downloaded: Path) -> None:
    """Either way it is the same JSON."""
    downloaded.write_text('{"model_type": "llama"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_config("org/tiny") == read_config(str(tmp_path)) == {"model_type": "llama"}


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_what_cannot_be_read_is_no_config(downloaded: Path, content: str | None) -> None:
    """Nor is a model that was never downloaded."""
    if content is not None:
        downloaded.write_text(content)
    assert read_config("org/tiny") is None
    assert read_config("org/other") is None


async def test_a_config_that_comes_later_is_used(
    tmp_path: Path, downloaded: Path, adapter_folder: AdapterMaker
) -> None:
    """The engine downloads the model after the gateway has started; pushes are held against its shapes from then on."""
    database = connect(f"sqlite:///{tmp_path / 'o.db'}")
    await migrate(database)
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    registry = Registry(database, store, (BaseSpec("tiny", source="org/tiny"),))
    assert (await registry.push("support", adapter_folder(1.0), actor="ann")).created
    downloaded.write_text(json.dumps({**dict(BASE.config or {}), "hidden_size": 64}))
    with pytest.raises(InvalidAdapter) as refused:
        await registry.push("support", adapter_folder(2.0), actor="ann")
    assert refused.value.reason == "shape_mismatch"
    await database.dispose()
