"""No value of the chart is dead: whichever is changed, something that is rendered changes."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.helm.chart import Json, values
from tests.helm.test_chart_values import VALUES_FILE, schema_of
from tests.helm.trial import renders

# Lists of what the chart is about, which every other test uses.
OBVIOUS = {"engines.pools", "engines.external"}
# Names of pools, without which much else is not rendered.
UNMARKED = {"tuner.pools"}
# What no mark can stand for.
OTHERS = {"monitoring.rules.without": [["OstlerNoGateway"]]}
FIRST_NUMBER = 410_001


@dataclass(frozen=True)
class Value:
    """A value of values.yaml that is no map of others."""

    path: str
    default: Any
    schema: Json

    def mark(self, number: int) -> Any:
        """A value of its type that can be found in a render; None if there is none, as for a switch."""
        types = self.schema.get("type", "enum")
        kind = types if isinstance(types, str) else types[0]
        if kind == "array":
            return [Value("", None, self.schema["items"]).mark(number)]
        if kind == "object":
            return {f"zq{number}": f"zq{number}"}
        return {"enum": None, "boolean": None, "integer": number, "number": number}.get(kind, f"zq{number}")

    @property
    def others(self) -> list[Any]:
        """Other values that it may have."""
        if self.path in OTHERS:
            return OTHERS[self.path]
        if "enum" in self.schema:
            return [each for each in self.schema["enum"] if each != self.default]
        if self.schema.get("type") == "boolean":
            return [not self.default]
        if isinstance(self.default, int | float):
            return [self.default + 7]
        return [self.mark(FIRST_NUMBER)]


def changed(base: Json, changes: dict[str, Any]) -> Json:
    """Values with others in their places."""
    found = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return found


def cached(kind: str) -> Json:
    """Values by which engines and tuners keep their models in volumes of one kind."""
    of_tuner = "emptyDir" if kind == "claimPerReplica" else kind
    types = {"engines.defaults.modelCache.type": kind, "tuner.modelCache.type": of_tuner}
    return changed(values("gpu-keda"), {**types, "tuner.enabled": True})


# Every value matters in one of these at least; the first ones have the most switched on.
BASES = {
    **{value_set: values(value_set) for value_set in ("everything", "external", "smallest", "openshift")},
    **{kind: cached(kind) for kind in ("existingClaim", "hostPath", "claimPerReplica")},
}


def listed(tree: Json, path: str = "") -> Iterator[Value]:
    """Every value of the chart; a map without names of the chart's is one value."""
    for key, default in tree.items():
        own = f"{path}.{key}".lstrip(".")
        schema = schema_of(own)
        assert schema is not None, own
        if isinstance(default, dict) and default and schema.get("properties"):
            yield from listed(default, own)
        elif own not in OBVIOUS:
            yield Value(own, default, schema)


def marked_all_at_once(folder: Path, own: list[Value]) -> set[str]:
    """The values whose marks stand in a render in which all that can be marked are."""
    marks = {each.path: (FIRST_NUMBER + number, each.mark(FIRST_NUMBER + number)) for number, each in enumerate(own)}
    changes = {path: mark for path, (_, mark) in marks.items() if mark is not None and path not in UNMARKED}
    trials = {f"trial{number}": changed(base, changes) for number, base in enumerate(BASES.values())}
    text = "".join(renders(folder, trials).values())
    return {path for path in changes if str(marks[path][0]) in text}


def changed_one_by_one(folder: Path, base: Json, own: list[Value]) -> set[str]:
    """The values of which another one changes a render, or is refused by it."""
    tried = [(each.path, other) for each in own for other in each.others]
    trials = {f"trial{number:04d}": changed(base, {path: other}) for number, (path, other) in enumerate(tried)}
    made = renders(folder, {"trialbase": base, **trials})
    return {tried[number][0] for number, name in enumerate(trials) if made.get(name) != made["trialbase"]}


def test_every_value_is_of_use(tmp_path: Path) -> None:
    """First all at once, by marks; then what has none, or was hidden by another, one by one."""
    own = list(listed(yaml.safe_load(VALUES_FILE.read_text())))
    used = marked_all_at_once(tmp_path / "marks", own)
    for name, base in BASES.items():
        if remaining := [each for each in own if each.path not in used]:
            used |= changed_one_by_one(tmp_path / name, base, remaining)
    assert [each.path for each in own if each.path not in used] == []
