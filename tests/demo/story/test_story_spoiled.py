"""The bad version of the second act."""

import io
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load

import demo
from demo.story.spoiled import spoiled
from gateway.app import base_specs
from ostler.settings import UpSettings
from registry.lora import check_adapter


def test_it_is_an_adapter_of_other_weights(tmp_path: Path) -> None:
    """Which passes every check of a push; the same seed gives the same bytes."""
    folder = demo.ADAPTERS[-1].folder
    content = spoiled(folder, seed=1)
    assert content == spoiled(folder, seed=1) != spoiled(folder, seed=2)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert sorted(archive.getnames()) == ["adapter_config.json", "adapter_model.safetensors"]
        archive.extractall(tmp_path, filter="data")
    (base,) = base_specs(UpSettings(base_model=""))
    check_adapter(tmp_path, base)
    good, bad = (load((each / "adapter_model.safetensors").read_bytes()) for each in (folder, tmp_path))
    assert good.keys() == bad.keys()
    assert all(bad[name].dtype == good[name].dtype and not np.allclose(bad[name], good[name]) for name in good)
