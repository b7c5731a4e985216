"""How adapters are watched: what is captured, what scores it, and what counts as lost quality or drift."""

import asyncio
import json
from typing import Annotated, Any

import msgspec
from litestar import Controller, get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, UnsetType

from gateway.admin.fields import NO_NUL, Share
from gateway.directory import Directory
from gateway.errors import InvalidRequest
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from monitors.judging.choices import check_names, check_options
from registry.catalog import Adapter
from registry.errors import NotFound
from registry.monitoring import Against, Monitoring, ScorerChoice
from registry.registry import Registry

_MOST_SCORERS = 20
_LONGEST_OPTIONS = 65_536
_Days = Annotated[float, msgspec.Meta(ge=1 / 24, le=36_500)]
_Level = Annotated[float, msgspec.Meta(ge=-1, le=1)]
_Drop = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Hours = Annotated[float, msgspec.Meta(ge=0, le=8_760)]
_Scorer = Annotated[str, msgspec.Meta(min_length=1, max_length=40, pattern=NO_NUL)]


class ScorerOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A scorer and its options, such as a JSON Schema."""

    scorer: _Scorer
    options: dict[str, Any] = {}


class QualityPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of the quality rule; null as level takes it from the version's first observations.

    A level is of scores, 0 to 1, or of differences, -1 to 1, where the rule is `against` another version.
    """

    scorer: _Scorer | UnsetType = UNSET
    against: Against | UnsetType = UNSET
    level: _Level | UnsetType | None = UNSET
    level_observations: Annotated[int, msgspec.Meta(ge=10, le=1_000_000)] | UnsetType = UNSET
    drop: _Drop | UnsetType = UNSET
    alarm_every: Annotated[int, msgspec.Meta(ge=2, le=10**12)] | UnsetType = UNSET
    alpha: Annotated[float, msgspec.Meta(ge=1e-9, le=0.5)] | UnsetType = UNSET


class DriftPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of the drift rule."""

    every_h: _Hours | UnsetType = UNSET
    window_rows: Annotated[int, msgspec.Meta(ge=20, le=100_000)] | UnsetType = UNSET
    reference_rows: Annotated[int, msgspec.Meta(ge=50, le=1_000_000)] | UnsetType = UNSET
    false_alarms_per_week: Annotated[float, msgspec.Meta(ge=1e-6, le=100)] | UnsetType = UNSET


class MonitoringPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of how an adapter is watched; what is left out stays. `scorers` is the whole list."""

    capture: Share | UnsetType = UNSET
    capture_days: _Days | UnsetType = UNSET
    scorers: Annotated[list[ScorerOrder], msgspec.Meta(max_length=_MOST_SCORERS)] | UnsetType = UNSET
    quality: QualityPatch | UnsetType = UNSET
    drift: DriftPatch | UnsetType = UNSET
    golden_every_h: _Hours | UnsetType = UNSET


class MonitoringController(Controller):
    """How adapters are watched."""

    path = "/adapters/{name:str}/monitoring"
    tags = ("Judging",)
    request_class = StrictRequest

    @get("/", summary="Show how an adapter is watched", responses=refusals(404))
    async def show(self, name: FromPath[str], directory: NamedDependency[Directory]) -> Monitoring:
        """What is captured of its traffic, what scores it, and when an alarm is raised."""
        return known_adapter(directory, name).monitoring

    @patch("/", summary="Change how an adapter is watched", responses=refusals(404, 413, 422))
    async def change(
        self,
        name: FromPath[str],
        data: JSONBody[MonitoringPatch],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
    ) -> Monitoring:
        """Change what is said; answers when it holds at this gateway."""
        await directory.refresh()  # what another gateway made just now is known, too
        known_adapter(directory, name)
        choices = _choices(data)
        await asyncio.to_thread(check_options, choices)  # schemas take their time

        def wanted(monitoring: Monitoring) -> Monitoring:
            changed = _changed(monitoring, data, choices)
            check_names(changed)
            return changed

        await registry.change_monitoring(name, wanted, actor=actor)
        await directory.refresh()
        return known_adapter(directory, name).monitoring


def known_adapter(directory: Directory, name: str) -> Adapter:
    """The adapter of that name.

    Raises:
        NotFound
    """
    adapter = directory.catalog.adapters.get(name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return adapter


def _choices(order: MonitoringPatch) -> tuple[ScorerChoice, ...]:
    return () if order.scorers is UNSET else tuple(_choice(each) for each in order.scorers)


def _changed(monitoring: Monitoring, order: MonitoringPatch, choices: tuple[ScorerChoice, ...]) -> Monitoring:
    changes = said(order)
    if "scorers" in changes:
        changes["scorers"] = choices
    if "quality" in changes:
        changes["quality"] = msgspec.structs.replace(monitoring.quality, **said(changes["quality"]))
    if "drift" in changes:
        changes["drift"] = msgspec.structs.replace(monitoring.drift, **said(changes["drift"]))
    return msgspec.structs.replace(monitoring, **changes)


def said(order: msgspec.Struct) -> dict[str, Any]:
    """The fields that the order names."""
    return {name: value for name, value in msgspec.structs.asdict(order).items() if value is not UNSET}


def _choice(order: ScorerOrder) -> ScorerChoice:
    try:
        size = len(json.dumps(order.options))
    except RecursionError:
        size = _LONGEST_OPTIONS + 1
    if size > _LONGEST_OPTIONS:
        raise InvalidRequest(
            f"the options of {order.scorer!r} may have {_LONGEST_OPTIONS} characters at most, and no endless nesting",
            param="scorers",
        )
    return ScorerChoice(order.scorer, order.options)
