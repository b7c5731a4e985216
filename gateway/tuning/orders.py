"""What a request for a job comes to: an order for the tuner, held against what the gateway can know.

Whatever is wrong is a 400 that names the field, but for models that the key may not say: these do not exist for it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import InvalidRequest, ModelNotFound
from gateway.routing import not_found
from gateway.tuning.access import owner_filter
from gateway.tuning.bodies import MethodBody, NewJob, OstlerBody
from monitors.judging.scorers import check_choice
from registry.base_model import BaseSpec
from registry.catalog import Adapter, ApiKey, Catalog, Version
from registry.errors import InvalidName, InvalidValue, NotFound
from registry.names import check_adapter_name, is_adapter_name, parse_pinned
from registry.tuning.files import Files
from registry.tuning.orders import DataOrder, GateOrder, Hyperparameters, LoraOrder, Method, TuningOrder

_ADAPTER, _START, _RANK, _SCORERS = "ostler.adapter", "ostler.start_from", "ostler.rank", "ostler.gate.scorers"
_PURPOSE_OF_DATA, _PURPOSE_OF_SETS = "fine-tune", "evals"

P = TypeVar("P", LoraOrder, DataOrder)


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whose version is made, of which base model, and from which version; None begins anew."""

    adapter: str
    base: str
    start: Version | None


async def order_for(
    body: NewJob, key: ApiKey, catalog: Catalog, bases: Mapping[str, BaseSpec], files: Files
) -> TuningOrder:
    """The order that a body comes to.

    Raises:
        InvalidRequest: a field is wrong; `param` says which.
        ModelNotFound: the model, or the adapter, does not exist for this key.
    """
    ours = body.ostler
    method, hyperparameters = _method(body.method, body.hyperparameters)
    subject = _subject(body, key, catalog, bases)
    _check_replay(ours, catalog.adapters.get(subject.adapter))
    _check_shape(ours, subject, bases)
    await asyncio.to_thread(_check_scorers, ours.gate)  # a schema takes its time
    await _check_files(body, key, files)
    order = TuningOrder(
        adapter=subject.adapter,
        base=subject.base,
        training_file=body.training_file,
        method=method,
        start_from=None if subject.start is None else subject.start.number,
        validation_file=body.validation_file,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        hyperparameters=hyperparameters,
        lora=_part(LoraOrder, ours),
        data=_part(DataOrder, ours),
        stopping=ours.stopping,
        gate=ours.gate,
        note=body.suffix or "",
        metadata=body.metadata,
        reason=ours.reason,
    )
    with _wrong_fields():
        order.check()
    return order


def _part(kind: type[P], ours: OstlerBody) -> P:
    """The fields of a part of the order, which stand side by side in the body."""
    return kind(**{name: getattr(ours, name) for name in kind.__struct_fields__})


def _method(method: MethodBody | None, old: Hyperparameters | None) -> tuple[Method, Hyperparameters]:
    """The method with its hyperparameters, wherever these stand."""
    if method is None:
        return "supervised", old or Hyperparameters()
    if method.type == "reinforcement" or method.reinforcement is not None:
        raise InvalidRequest(
            "the method 'reinforcement' is not available here; there are 'supervised' and 'dpo'", param="method.type"
        )
    other = "dpo" if method.type == "supervised" else "supervised"
    if getattr(method, other) is not None:
        raise InvalidRequest(f"the method is '{method.type}', so `{other}` says nothing", param=f"method.{other}")
    block = method.dpo if method.type == "dpo" else method.supervised
    given = block.hyperparameters if block is not None else None
    if given is not None and old is not None and given != old:
        raise InvalidRequest(
            "`hyperparameters` is deprecated and says something else than those of `method`; leave it out",
            param="hyperparameters",
        )
    return method.type, given or old or Hyperparameters()


def _subject(body: NewJob, key: ApiKey, catalog: Catalog, bases: Mapping[str, BaseSpec]) -> _Subject:
    if body.model in bases:
        if not key.may_use(body.model):
            raise not_found(catalog, frozenset(bases), key, body.model)
        return _of_base(body, key, catalog, bases)
    pinned = parse_pinned(body.model)
    name = pinned.adapter if pinned else body.model
    adapter = catalog.adapters.get(name) if key.may_use(name) else None
    version = catalog.version(body.model) if pinned else None
    if adapter is None or adapter.base not in bases or (pinned and version is None):
        raise not_found(catalog, frozenset(bases), key, body.model)
    return _of_adapter(body.ostler, adapter, version)


def _of_base(body: NewJob, key: ApiKey, catalog: Catalog, bases: Mapping[str, BaseSpec]) -> _Subject:
    """A version of the adapter that is said beside the base model; it need not exist yet."""
    name = body.ostler.adapter
    if name is None:
        if body.suffix is None or not is_adapter_name(body.suffix):
            raise InvalidRequest(
                "say whose version this is: `ostler.adapter` is its name, or a `suffix` that can be one "
                "(lower-case letters, digits, '.', '_', '-')",
                param=_ADAPTER,
            )
        name = body.suffix
    with _wrong_fields(_ADAPTER):
        check_adapter_name(name, frozenset(bases))
    if not key.may_use(name):
        raise ModelNotFound(f"the adapter '{name}' does not exist for this API key", param=_ADAPTER)
    adapter = catalog.adapters.get(name)
    if adapter is not None and adapter.base != body.model:
        raise InvalidRequest(
            f"the adapter '{name}' belongs to the base model '{adapter.base}', not '{body.model}'", param=_ADAPTER
        )
    number = body.ostler.start_from
    return _Subject(name, body.model, None if number is None else _start(name, adapter, number))


def _of_adapter(ours: OstlerBody, adapter: Adapter, pinned: Version | None) -> _Subject:
    """A version that goes on from another one of the same adapter: the pinned, the named, or the stable one."""
    if ours.adapter not in (None, adapter.name):
        raise InvalidRequest(
            f"what goes on from '{adapter.name}' is a version of it, and not of '{ours.adapter}'", param=_ADAPTER
        )
    if pinned is not None and ours.start_from not in (None, pinned.number):
        raise InvalidRequest(f"the model is version {pinned.number}, so `start_from` says nothing else", param=_START)
    if pinned is not None:
        return _Subject(adapter.name, adapter.base, pinned)
    if ours.start_from is not None:
        return _Subject(adapter.name, adapter.base, _start(adapter.name, adapter, ours.start_from))
    if adapter.stable is None:
        raise InvalidRequest(
            f"'{adapter.name}' has no version in service to go on from; name one as '{adapter.name}@1', or begin anew "
            f"with the base model '{adapter.base}' and `ostler.adapter`",
            param="model",
        )
    return _Subject(adapter.name, adapter.base, adapter.stable)


def _start(name: str, adapter: Adapter | None, number: int) -> Version:
    version = adapter.versions.get(number) if adapter is not None else None
    if version is None:
        raise InvalidRequest(f"the adapter '{name}' has no version {number} to go on from", param=_START)
    if version.archived:
        raise InvalidRequest(
            f"version {number} of '{name}' is archived; bring it back from the archive first", param=_START
        )
    return version


def _check_replay(ours: OstlerBody, adapter: Adapter | None) -> None:
    number = ours.replay_from
    if number is not None and (adapter is None or number not in adapter.versions):
        raise InvalidRequest(f"there is no version {number} whose data could be replayed", param="ostler.replay_from")


def _check_shape(ours: OstlerBody, subject: _Subject, bases: Mapping[str, BaseSpec]) -> None:
    """Weights that exist keep their rank and alpha, and vLLM takes any rank up to the one that it was started for."""
    start = subject.start
    if start is not None:
        for name, is_so in (("rank", start.rank), ("alpha", start.alpha)):
            if getattr(ours, name) not in ("auto", is_so):
                raise InvalidRequest(
                    f"version {start.number} of '{subject.adapter}' has {name} {is_so:g}, which stays as training goes "
                    "on; leave it out, or begin anew",
                    param=f"ostler.{name}",
                )
    rank = ours.rank if start is None else start.rank
    most = bases[subject.base].max_lora_rank
    if rank != "auto" and rank > most:
        raise InvalidRequest(
            f"the rank is {rank}, and the engines of '{subject.base}' take {most} at most", param=_RANK
        )


def _check_scorers(gate: GateOrder) -> None:
    choices = gate.scorers or []
    if len({choice.scorer for choice in choices}) < len(choices):
        raise InvalidRequest("a scorer may be chosen once, for its scores go by its name", param=_SCORERS)
    with _wrong_fields(_SCORERS):
        for choice in choices:
            check_choice(choice)


async def _check_files(body: NewJob, key: ApiKey, files: Files) -> None:
    """Each file must be there, be visible to the key, and have been sent for this."""
    gate = body.ostler.gate
    asked = (
        ("training_file", body.training_file, _PURPOSE_OF_DATA),
        ("validation_file", body.validation_file, _PURPOSE_OF_DATA),
        ("ostler.gate.retention_file", gate.retention_file, _PURPOSE_OF_SETS),
        ("ostler.gate.refusal_file", gate.refusal_file, _PURPOSE_OF_SETS),
    )
    for param, file_id, purpose in asked:
        if file_id is None:
            continue
        try:
            file = await files.find(file_id, key_id=owner_filter(key))
        except NotFound as error:
            raise InvalidRequest(error.message, param=param) from None
        if file.purpose != purpose:
            raise InvalidRequest(
                f"the file {file_id} was sent for the purpose '{file.purpose}'; it must be '{purpose}'", param=param
            )
    if body.validation_file == body.training_file:
        raise InvalidRequest("validation needs other rows than those that are trained on", param="validation_file")


@contextlib.contextmanager
def _wrong_fields(param: str | None = None) -> Iterator[None]:
    """What the registry finds wrong in an order is told like what the body's own types do not let through."""
    try:
        yield
    except (InvalidValue, InvalidName) as error:
        raise InvalidRequest(error.message, param=param or error.param) from None
