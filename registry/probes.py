"""A version's own proof: prompts, and the log probabilities that its training library gave for the next token.

Whoever trained a version may put a `probes.json` beside its weights. An engine that serves these weights on this base
gives the same numbers, up to rounding; see `gateway.engines.proof`.

{"format": 1, "dtype": "float32", "probes": [
    {"tokens": [1, 17, ...],                    the prompt, as token ids
     "logprobs": {"31": -0.04, ...},            the likeliest next tokens with the adapter, by token id
     "base_logprobs": {"88": -0.71, ...}}]}     the same from the base model alone
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
from msgspec import Meta

from registry.errors import InvalidAdapter
from registry.wording import plain

PROBES_FILE = "probes.json"
TOP_TOKENS = 20
"""How many of the likeliest tokens a distribution lists at most; vLLM gives no more unless it is told to."""

LARGEST_FILE = 64 * 1024
"""Bytes that a file of probes may have."""

# Float32 rounds the same model's log probabilities by about a hundredth of this.
_LEAST_EFFECT = 1e-4
# Printed to a few decimals, probabilities may add up to a little over 1.
_LARGEST_SUM = 1.001
_REMEDY = "write it again from the training library, or leave it out"

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Distribution = Mapping[int, float]
"""The likeliest next tokens: token id -> log probability. A token that it lacks is at most as likely as its last."""

_Logprobs = Annotated[dict[TokenId, Annotated[float, Meta(le=0.0)]], Meta(min_length=2, max_length=TOP_TOKENS)]


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt, as token ids, and what follows it: with the adapter, and from the base model alone."""

    tokens: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=512)]
    logprobs: _Logprobs
    base_logprobs: _Logprobs


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a version's probes; `dtype` is what the training library computed them in."""

    format: Literal[1]
    dtype: Literal["float32", "bfloat16", "float16"]
    probes: Annotated[tuple[Probe, ...], Meta(min_length=1, max_length=16)]


def read_probes(folder: Path, vocabulary: int | None = None) -> Probes | None:
    """The probes in `folder`; None if the version has none.

    Args:
        folder: the version's files.
        vocabulary: how many tokens the base model knows, where that is known; every id must be below it.

    Raises:
        InvalidAdapter: the file is not as described above, or its numbers say that the adapter does nothing.
    """
    path = folder / PROBES_FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return parse_probes(file.read(LARGEST_FILE + 1), vocabulary)


def parse_probes(content: bytes, vocabulary: int | None = None) -> Probes:
    """The probes in a file's content; `vocabulary` as for `read_probes`.

    Raises:
        InvalidAdapter: as `read_probes`.
    """
    if len(content) > LARGEST_FILE:
        _refuse(f"is over {LARGEST_FILE} bytes; keep fewer or shorter prompts")
    probes = _decode(content)
    for index, probe in enumerate(probes.probes):
        _check(probe, f"$.probes[{index}]", vocabulary)
    _require_effect(probes)
    return probes


def distance(one: Distribution, other: Distribution, *, floor: float = 0.0) -> float:
    """How far two distributions lie apart at least: the largest difference of a log probability that they prove.

    A token in both lists counts with its difference. A token that one list lacks is there at most as likely as the
    last of that list, so it counts with what it lies above that. So lists that share few tokens are far apart, but two
    that swap near-equal tokens at their ends are not; and the true largest difference is never less than this.

    Args:
        one: a distribution.
        other: another; their order does not matter.
        floor: tokens that neither holds more probable than this are left out, as rounding moves them most. The
            likeliest token of each always counts.
    """
    least = math.log(floor) if floor > 0 else -math.inf
    return max(_excess(one, other, least), _excess(other, one, least))


def _excess(one: Distribution, other: Distribution, least: float) -> float:
    """The largest difference over the tokens that `one` holds likely."""
    bound = min(other.values())
    likely = [token for token, logprob in one.items() if logprob >= least] or [max(one, key=lambda token: one[token])]
    return max(abs(one[token] - other[token]) if token in other else max(0.0, one[token] - bound) for token in likely)


def _refuse(problem: str, reason: str = "invalid_probes") -> NoReturn:
    raise InvalidAdapter(f"{PROBES_FILE}: {problem}", reason=reason, file=PROBES_FILE)


def _decode(content: bytes) -> Probes:
    try:
        return msgspec.json.decode(content, type=Probes)
    except msgspec.ValidationError as error:
        _refuse(f"{plain(error, Probes)}; {_REMEDY}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse(f"is not valid JSON; {_REMEDY}")


def _check(probe: Probe, where: str, vocabulary: int | None) -> None:
    """What the types cannot say."""
    known = vocabulary if vocabulary is not None else 2**31
    if max(*probe.tokens, *probe.logprobs, *probe.base_logprobs) >= known:
        _refuse(f"a token id is not below the base model's {known} tokens - at `{where}`; {_REMEDY}")
    for field, logprobs in (("logprobs", probe.logprobs), ("base_logprobs", probe.base_logprobs)):
        if not all(map(math.isfinite, logprobs.values())):
            _refuse(f"a log probability is not finite - at `{where}.{field}`; {_REMEDY}")
        if math.fsum(map(math.exp, logprobs.values())) > _LARGEST_SUM:
            _refuse(f"the probabilities add up to more than 1 - at `{where}.{field}`; {_REMEDY}")


def _require_effect(probes: Probes) -> None:
    if max(distance(probe.logprobs, probe.base_logprobs) for probe in probes.probes) < _LEAST_EFFECT:
        problem = "the adapter's log probabilities are the base model's: it does nothing; train it, and save it then"
        _refuse(problem, reason="no_op")
