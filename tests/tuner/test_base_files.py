"""What identifies a base model."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.tuner.works import BASE_MODEL
from tuner.base_files import base_digests


def _model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-1.safetensors").write_bytes(b"one")
    (folder / "model-2.safetensors").write_bytes(b"two")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


def test_the_weights_digest_is_what_sha256sum_says(tmp_path: Path) -> None:
    """Anyone can compute the digest of the weights with two commands."""
    script = "sha256sum config.json *.safetensors | sha256sum"
    done = subprocess.run(["sh", "-c", script], cwd=BASE_MODEL, capture_output=True, check=True, text=True)
    assert base_digests(str(BASE_MODEL), tmp_path / "digests.json").weights == done.stdout.split()[0]


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    """A changed file is read again, even where its size stays."""
    model, cache = _model(tmp_path / "model"), tmp_path / "digests.json"
    before = base_digests(str(model), cache)
    (model / "model-2.safetensors").write_bytes(b"TWO")
    os.utime(model / "model-2.safetensors", ns=(1, 1))
    after = base_digests(str(model), cache)
    assert after.weights != before.weights
    assert (after.tokenizer, after.chat_template) == (before.tokenizer, before.chat_template)


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    """The weights of a large model are read through once on a machine."""
    model, cache = _model(tmp_path / "model"), tmp_path / "digests.json"
    before = base_digests(str(model), cache)
    looks = (model / "model-1.safetensors").stat()
    (model / "model-1.safetensors").write_bytes(b"ONE")
    os.utime(model / "model-1.safetensors", ns=(looks.st_atime_ns, looks.st_mtime_ns))
    assert base_digests(str(model), cache) == before
    cache.unlink()
    assert base_digests(str(model), cache) != before


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"a": 1}'])
def test_a_broken_cache_is_no_matter(tmp_path: Path, content: bytes) -> None:
    """A cache that cannot be read is begun anew."""
    model, cache = _model(tmp_path / "model"), tmp_path / "digests.json"
    before = base_digests(str(model), cache)
    cache.write_bytes(content)
    assert base_digests(str(model), cache) == before


def test_a_template_has_one_digest_wherever_it_stands(tmp_path: Path) -> None:
    """The template's digest is that of its text, in a file of its own or in the tokenizer's config."""
    model = _model(tmp_path / "model")
    inside = base_digests(str(model), tmp_path / "digests.json").chat_template
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    beside = base_digests(str(model), tmp_path / "digests.json").chat_template
    assert inside == beside == hashlib.sha256(b"{{ messages }}").hexdigest()


def test_a_model_that_is_not_here_has_none(tmp_path: Path) -> None:
    """Of a model whose files are elsewhere nothing is claimed."""
    found = base_digests(str(tmp_path / "nowhere"), tmp_path / "digests.json")
    assert (found.weights, found.tokenizer, found.chat_template) == (None, None, None)
