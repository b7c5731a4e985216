"""What identifies a base model: digests of its files, the same on every machine that has them.

weights         as ``sha256sum config.json *.safetensors | sha256sum`` has it, by name (``*.bin`` where there are no
                safetensors)
tokenizer       of ``tokenizer.json``, else ``tokenizer.model``
chat_template   of the template's text, from ``chat_template.jinja`` or out of ``tokenizer_config.json``
"""

import hashlib
import json
import os
from pathlib import Path

import msgspec

from registry.base_model import model_folder

_CHUNK = 8 << 20
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


class BaseDigests(msgspec.Struct, frozen=True):
    """SHA-256 in hex; None for what there is no file of."""

    weights: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None


class _Known(msgspec.Struct, frozen=True):
    """A file's digest, and what it looked like then."""

    size: int
    changed_ns: int
    digest: str


def base_digests(source: str, cache: Path) -> BaseDigests:
    """The digests of a base model's files.

    All of the weights are read once; after that a file of the same size and time of change is believed to be the same.

    Args:
        source: the model's folder or Hugging Face id.
        cache: the file that keeps the digests of files.
    """
    folder = model_folder(source)
    if folder is None:
        return BaseDigests()
    known = _read(cache)
    weights = _weights(folder, known)
    _write(cache, known)
    return BaseDigests(weights, _tokenizer(folder), _chat_template(folder))


def _weights(folder: Path, known: dict[str, _Known]) -> str | None:
    """The digest of the weights; what had to be read is added to `known`."""
    files = next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), None)
    if files is None:
        return None
    lines = [f"{_digest(path, known)}  {path.name}\n" for path in (folder / "config.json", *files) if path.exists()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest(path: Path, known: dict[str, _Known]) -> str:
    real = path.resolve()  # Hugging Face's cache links to files that are named by their content
    looks = real.stat()
    before = known.get(str(real))
    if before is None or (before.size, before.changed_ns) != (looks.st_size, looks.st_mtime_ns):
        known[str(real)] = before = _Known(looks.st_size, looks.st_mtime_ns, _read_through(real))
    return before.digest


def _read_through(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _tokenizer(folder: Path) -> str | None:
    path = next((folder / name for name in _TOKENIZERS if (folder / name).is_file()), None)
    return None if path is None else _read_through(path)


def _chat_template(folder: Path) -> str | None:
    template: object = None
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text()
    elif (folder / "tokenizer_config.json").is_file():
        template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    if template is None:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)  # several, by name
    return hashlib.sha256(text.encode()).hexdigest()


def _read(cache: Path) -> dict[str, _Known]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, _Known])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(cache: Path, known: dict[str, _Known]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_name(f"{cache.name}.{os.getpid()}")
    part.write_bytes(msgspec.json.encode(known))
    part.replace(cache)
