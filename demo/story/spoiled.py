"""A bad version, made on the spot: a good one whose weights are noised until it answers wrongly.

It loads, it answers, and nothing but the quality of its answers tells that it is bad, as after a training that went
wrong. It carries no probes, so nobody can hold it against what its training said.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

__all__ = ["spoiled"]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
NOISE = 1.5
"""Standard deviation of the noise, as a multiple of that of each tensor's weights."""


def spoiled(folder: Path, seed: int) -> bytes:
    """The archive of a PEFT folder's adapter with noise in its weights, as it is pushed."""
    rng = np.random.default_rng(seed)
    weights = {
        name: (tensor + NOISE * tensor.std() * rng.standard_normal(tensor.shape)).astype(tensor.dtype)
        for name, tensor in sorted(load_file(folder / _WEIGHTS).items())
    }
    files = {_CONFIG: (folder / _CONFIG).read_bytes(), _WEIGHTS: save(weights, metadata={"format": "pt"})}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()
