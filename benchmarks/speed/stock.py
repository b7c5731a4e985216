"""What Ostler's gateway has when it is measured: adapters with versions, deployments and keys, made once and copied."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec
from registry.catalog import Canary, KeyLimits, Scope
from registry.database import connect, migrate
from registry.deployments import Patch
from registry.registry import Registry
from tests.registry.lora_samples import safetensors_bytes, tensors, write_adapter

MODEL = "support"
OPERATOR = "sk-ostler-benchmark-operator-0123456789abcdef"
"""The secret of a key that may change what is served."""
LIMITS = KeyLimits(10**8, 10**9, 10**5, 1e9)
"""Of every kind, and out of reach."""
_made: dict["Stock", tuple[tempfile.TemporaryDirectory[str], str]] = {}
"""Each goes with this process."""


@dataclass(frozen=True, slots=True)
class Stock:
    """How much there is, and what of it every request goes through.

    Attributes:
        adapters: how many, each with a version in service.
        keys: how many; requests come with one of them.
        limited: whether the keys have limits of every kind.
        canary: whether the adapter that is asked for has one.
        priced: whether tokens cost.
        spare: how many more versions the adapter that is asked for has, which have served nowhere.
    """

    adapters: int = 1
    keys: int = 10
    limited: bool = True
    canary: bool = True
    priced: bool = True
    spare: int = 0

    @property
    def model(self) -> str:
        """What to ask for."""
        return MODEL

    @property
    def spares(self) -> range:
        """The numbers of those."""
        first = 3 if self.canary else 2
        return range(first, first + self.spare)

    @property
    def environment(self) -> dict[str, str]:
        """The settings that belong to it."""
        if not self.priced:
            return {}
        return {
            "OSTLER_PRICE_PER_MILLION_PROMPT_TOKENS": "0.2",
            "OSTLER_PRICE_PER_MILLION_COMPLETION_TOKENS": "0.6",
        }


async def stocked(folder: Path, stock: Stock) -> str:
    """Have a gateway's `home` in a folder, with this in it; the secret of one of its keys."""
    if stock not in _made:
        template = tempfile.TemporaryDirectory(prefix="ostler-stock-")
        _made[stock] = template, await _make(Path(template.name), stock)
    template, secret = _made[stock]
    shutil.copytree(Path(template.name) / "home", folder / "home")
    return secret


async def _make(folder: Path, stock: Stock) -> str:
    home = folder / "home"
    database = connect(f"sqlite:///{home / 'ostler.db'}")
    await migrate(database)
    registry = Registry(database, ArtifactStore(str(home / "artifacts"), folder / "cache"), (BaseSpec("tiny"),))
    try:
        for number in range(stock.adapters):
            name = MODEL if number == 0 else f"adapter-{number}"
            await _push(registry, folder, name, 2.0 + number)
            await registry.promote(name, 1, actor="benchmark")
        if stock.canary:
            await _push(registry, folder, MODEL, 1.0)
            await registry.change(MODEL, Patch(canary=Canary(2, 0.1)), actor="benchmark")
        for number in stock.spares:
            await _push(registry, folder, MODEL, 1.0 / number)
        await registry.ensure_key("operator", OPERATOR, scopes=frozenset({Scope.ADMIN}), actor="benchmark")
        limits = LIMITS if stock.limited else KeyLimits()
        scopes = frozenset({Scope.INFERENCE})
        for number in range(stock.keys):
            _, secret = await registry.create_key(f"key-{number}", scopes=scopes, limits=limits, actor="benchmark")
        return secret
    finally:
        await database.dispose()


async def _push(registry: Registry, folder: Path, name: str, scale: float) -> None:
    values = {each: (value * scale).astype(value.dtype) for each, value in tensors().items()}
    made = write_adapter(folder / "adapter", weights=safetensors_bytes(values))
    await registry.push(name, made, actor="benchmark")
