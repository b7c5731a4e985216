"""The settings reference, from the classes that the processes read their settings with."""

import functools
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.settings import AgentSettings
from docs.source import markdown
from gateway.settings import GatewaySettings, PoolSettings
from monitors.money.pricing import PricedSettings
from monitors.settings import MonitorSettings, StorageSettings
from ostler.settings import UpSettings
from registry.home import cache_home, data_home
from tuner.settings import TunerSettings

_SHARED: tuple[type[BaseModel], ...] = (StorageSettings, PricedSettings)
_SECTIONS: tuple[tuple[str, str, type[BaseModel], tuple[type[BaseModel], ...]], ...] = (
    ("Every process", "Where state is; the same for all processes of an installation.", StorageSettings, ()),
    ("Prices", "Gateways, monitor and tuners need the same ones; [costs](costs.md) says how.", PricedSettings, ()),
    ("Gateway", "Of `ostler gateway`, and of the one that `ostler up` starts.", GatewaySettings, _SHARED),
    ("Monitor", "Of `ostler monitor`, and of the one that `ostler up` starts.", MonitorSettings, _SHARED),
    ("Tuner", "Of `ostler tuner`, and of the one that `ostler up` starts.", TunerSettings, _SHARED),
    ("Agent", "Of `ostler agent`, beside an engine; see [the agent](agent.md).", AgentSettings, (StorageSettings,)),
    ("`ostler up`", "Beside those of the gateway, monitor and tuner.", UpSettings, (GatewaySettings,)),
)
_HEADINGS = ("in `ostler.toml`, in the environment", "value", "default", "meaning")
_KINDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Path: "path"}
_HOMES = ((str(data_home()), "$XDG_DATA_HOME/ostler"), (str(cache_home()), "$XDG_CACHE_HOME/ostler"))
"""Folders of whoever writes the page, and what they are for everyone."""
_WORDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_INTRODUCTION = """\
A flag stands over the environment, the environment over the file `ostler.toml` in the working folder, and the file over
the default. A wrong value, or a line of the file that is no setting, ends the process at its start with a line that
names it; a variable that begins with `OSTLER_` and is none is warned of. One file may hold the settings of several
processes:

```toml
database_url = "postgresql://ostler@db/ostler"
artifacts_url = "s3://models/ostler"
base = "llama-8b"
engine_dns = "vllm.models.svc:8000"
tuner_min_free_gib = 20
```

**Secret** settings belong into the environment, from your store of secrets, and not into a file that is shared. So do
`database_url` and `limits_url` where they hold a password. No process logs a password.

The commands that talk to a gateway read `OSTLER_URL` and `OSTLER_API_KEY`. `XDG_DATA_HOME` is `~/.local/share` and
`XDG_CACHE_HOME` is `~/.cache` where they are not set. What [traces](tracing.md) and the object store's library read
besides (`OTEL_*`, `AWS_*`) is theirs."""
_POOLS = """\
`OSTLER_POOLS` is a list of these as JSON, or `[[pools]]` in `ostler.toml`; each has `engine_url` or `engine_dns`, and
means what the gateway's setting of the same name means. Prices that a pool does not say are those of the flat
settings."""


def page() -> str:
    """The page of all settings."""
    sections = [_section(*section) for section in _SECTIONS]
    pools = f"## A pool in `pools`\n\n{_POOLS}\n\n{_pool_table()}"
    return markdown.page(
        "Settings",
        "Every setting of every process, with its name, default and meaning.",
        _INTRODUCTION,
        *sections,
        pools,
    )


def _section(title: str, words: str, kind: type[BaseModel], without: tuple[type[BaseModel], ...]) -> str:
    rows = [_row(name, field) for name, field in kind.model_fields.items() if _is_own(name, field, without)]
    return f"## {title}\n\n{words}\n\n{markdown.table(_HEADINGS, rows)}"


def _is_own(name: str, field: FieldInfo, without: Iterable[type[BaseModel]]) -> bool:
    """Whether it means something here, and is not told elsewhere already in the same words."""
    told = [other.model_fields[name] for other in without if name in other.model_fields]
    return bool(field.description) and all(_said(one) != _said(field) for one in told)


def _said(field: FieldInfo) -> tuple[Any, ...]:
    return field.default, field.description


def _row(name: str, field: FieldInfo) -> tuple[str, ...]:
    meaning = field.description or ""
    if field.repr is False:
        meaning = f"**Secret.** {meaning}"
    return f"`{name}`<br>`OSTLER_{name.upper()}`", _value(field), _default(field), meaning


def _pool_table() -> str:
    rows = [(f"`{name}`", _value(field), _default(field)) for name, field in PoolSettings.model_fields.items()]
    return markdown.table(("key", "value", "default"), rows)


def _value(field: FieldInfo) -> str:
    kind, bounds = _kind(field.annotation)
    return markdown.listed([kind, *_bounds([*field.metadata, *bounds])])


def _kind(annotation: Any) -> tuple[str, list[Any]]:
    """A type in words, and what else is said of it where it stands inside of another one."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        kind, bounds = _kind(inner)
        return kind, [*bounds, *(part for one in metadata for part in getattr(one, "metadata", [one]))]
    if get_origin(annotation) in {Union, UnionType}:
        (inner,) = (part for part in get_args(annotation) if part is not NoneType)
        return _kind(inner)
    if get_origin(annotation) is Literal:
        return " or ".join(map(markdown.code, get_args(annotation))), []
    return ("[pools](#a-pool-in-pools)" if get_origin(annotation) is tuple else _KINDS[annotation]), []


def _bounds(metadata: Iterable[Any]) -> list[str]:
    found = [(words, getattr(one, kind.__name__.lower())) for one in metadata for kind, words in _kinds_of(one)]
    return [f"{words} {limit:,.15g}" for words, limit in found]


def _kinds_of(bound: Any) -> list[tuple[type, str]]:
    return [(kind, words) for kind, words in _WORDS.items() if isinstance(bound, kind)]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        made = str(field.get_default(call_default_factory=True, validated_data={}))
        return markdown.code(functools.reduce(lambda path, home: path.replace(*home), _HOMES, made))
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return "" if field.default in {None, "", ()} or field.is_required() else markdown.code(field.default)
