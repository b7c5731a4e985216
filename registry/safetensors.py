"""Reads the header of a safetensors file with nothing but the standard library, and looks for NaN and Inf.

The format: 8 bytes with the header's length (little-endian), the header as JSON, then the tensors' bytes, which
the header must cover without a gap. The checks are those of the safetensors library, so what passes here opens
there; torch and safetensors stay out because this runs in processes whose memory is counted.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeGuard

from registry.errors import InvalidAdapter

# Bytes per element of each type that the format knows.
_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_SIZES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
# The exponent's bits of each type whose values can be checked: all of them set means NaN or Inf.
_EXPONENTS = {"F32": 0x7F80_0000, "BF16": 0x7F80, "F16": 0x7C00}
FLOATS = frozenset(_EXPONENTS)

# Bytes; parsed, a header may take twenty times as much memory. 8 MiB describe about 50,000 tensors.
_LARGEST_HEADER = 8 * 1024 * 1024
_LONGEST_TENSOR_NAME = 512
_CHUNK = 4 * 1024 * 1024
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_RESAVE = "save the adapter again with save_pretrained(..., safe_serialization=True) and send the whole file"


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: where its bytes lie, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> list[Tensor]:
    """The file's tensors, in the order of their bytes. Raises InvalidAdapter where the file is not sound."""
    file_size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > file_size - 8:
            # Asked only now, because a header of 640 bytes begins like a pickle too.
            if start.startswith(_PICKLES):
                _refuse(path, "weights_are_pickle", f"is a pickle or zip, not safetensors; {_RESAVE}")
            _refuse(path, "safetensors_header", f"is cut short inside its header; {_RESAVE}")
        if length > _LARGEST_HEADER:
            _refuse(path, "safetensors_header", f"has a header of {length} bytes; at most {_LARGEST_HEADER} are taken")
        header = _parse(path, file.read(length))
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _require_layout(path, tensors, 8 + length, file_size)
    return tensors


def require_finite(path: Path, tensors: list[Tensor]) -> None:
    """Raise InvalidAdapter for the first tensor with NaN or Inf; its type must be one of FLOATS.

    Reads blocks of a few MB rather than mapping the file: mapped pages would count as this process's memory.
    """
    import numpy as np  # here, because processes that never check an adapter import this module too

    with path.open("rb") as file:
        for tensor in tensors:
            exponent = _EXPONENTS[tensor.dtype]
            for block in _blocks(file, tensor):
                values = np.frombuffer(block, dtype=f"<u{_SIZES[tensor.dtype]}")
                if bool(np.any((values & exponent) == exponent)):
                    _refuse(path, "not_finite", "holds NaN or Inf; train again with a lower learning rate", tensor.name)


def _blocks(file: BinaryIO, tensor: Tensor) -> Iterator[bytes]:
    file.seek(tensor.start)
    for position in range(tensor.start, tensor.end, _CHUNK):
        yield file.read(min(_CHUNK, tensor.end - position))


def _refuse(path: Path, reason: str, problem: str, tensor: str | None = None) -> NoReturn:
    where = f"{path.name}: tensor {tensor!r}" if tensor else path.name
    raise InvalidAdapter(f"{where} {problem}", reason=reason, file=path.name, tensor=tensor)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON without its metadata: entries by tensor name, not yet checked."""
    if not text.startswith(b"{"):
        _refuse(path, "safetensors_header", f"has a header that does not begin with '{{'; {_RESAVE}")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise InvalidAdapter(
            f"{path.name} has a header that is not valid JSON; {_RESAVE}", reason="safetensors_header", file=path.name
        ) from exc
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_text_map(metadata):
        _refuse(path, "safetensors_header", f"has a __metadata__ that does not map text to text; {_RESAVE}")
    return dict(header)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a key occurs twice")
    # Lone surrogates, which Python's parser lets through, cannot be written as UTF-8.
    "".join(entries).encode()
    return entries


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_text_map(value: object) -> bool:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        return False
    return not any("\ud800" <= char <= "\udfff" for item in value.values() for char in item)


def _tensor(path: Path, name: str, entry: object, data_start: int) -> Tensor:
    """One entry of the header, checked by itself."""
    if not name.isprintable() or len(name) > _LONGEST_TENSOR_NAME:
        _refuse(path, "safetensors_header", f"names a tensor {name!a:.80}, which is too long or not printable")
    if not isinstance(entry, dict):
        _refuse(path, "safetensors_header", "has an entry that is no object", name)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        _refuse(path, "safetensors_dtype", f"has the unknown type {dtype!a:.40}; save it as F32, BF16 or F16", name)
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        _refuse(path, "safetensors_header", "needs a shape and two data_offsets, all whole numbers from 0", name)
    if offsets[1] - offsets[0] != math.prod(shape) * _SIZES[dtype]:
        _refuse(path, "safetensors_layout", f"has offsets that do not fit its shape and type; {_RESAVE}", name)
    return Tensor(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _is_counts(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers from 0, and so few and small that multiplying them costs nothing."""
    return (
        isinstance(value, list) and len(value) <= 16 and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _require_layout(path: Path, tensors: list[Tensor], data_start: int, file_size: int) -> None:
    """The tensors must follow each other without gap or overlap, and end where the file ends."""
    if not tensors:
        _refuse(path, "no_tensors", "holds no tensor; save the adapter after training, with its lora_A and lora_B")
    expected = data_start
    for tensor in tensors:
        if tensor.start != expected:
            how = "overlaps another" if tensor.start < expected else "leaves a gap before it"
            _refuse(path, "safetensors_layout", f"{how}; {_RESAVE}", tensor.name)
        expected = tensor.end
    if expected > file_size:
        _refuse(path, "safetensors_truncated", f"is cut short: {file_size} bytes of {expected}; {_RESAVE}")
    if expected < file_size:
        _refuse(path, "safetensors_layout", f"goes on {file_size - expected} bytes after its last tensor; {_RESAVE}")
