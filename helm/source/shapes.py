"""Shapes that recur in the schema of the values. JSON Schema draft 7, which every Helm reads."""

from typing import Any

Schema = dict[str, Any]

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
NAME_OR_EMPTY = r"^$|" + NAME
ADDRESS = r"^https?://[^\s/]+"
# What the chart itself says of its objects, and finds them by.
OWN_LABELS = r"^(app\.kubernetes\.io|helm\.sh|ostler)/"


def obj(properties: Schema, *, optional: tuple[str, ...] = (), all_optional: bool = False, **more: Any) -> Schema:
    """An object of these properties and no others; all that isn't optional must be there."""
    required = [] if all_optional else [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required, **more}


def text(pattern: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def filled(**more: Any) -> Schema:
    """A string that says something."""
    return {"type": "string", "minLength": 1, **more}


def one_of(*values: Any) -> Schema:
    """One of these values."""
    return {"enum": list(values)}


def whole(least: int = 0, most: int | None = None) -> Schema:
    """An integer."""
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def or_null(shape: Schema) -> Schema:
    """The same, or null."""
    return {**shape, "type": [shape["type"], "null"]}


def array(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


FLAG: Schema = {"type": "boolean"}
PORT = whole(1, 65535)
SIZE = text(QUANTITY)
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
LABELS: Schema = {**STRINGS, "propertyNames": {"not": {"pattern": OWN_LABELS}}}
ANYTHING: Schema = {"type": "object"}
NAMES = array(text(NAME), uniqueItems=True)

_QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "integer", "number"], "pattern": QUANTITY, "minimum": 0},
}
RESOURCES = obj({"requests": _QUANTITIES, "limits": _QUANTITIES}, all_optional=True)
TOLERATIONS = array(
    obj(
        {
            "key": text(),
            "operator": one_of("Exists", "Equal"),
            "value": text(),
            "effect": one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            "tolerationSeconds": whole(),
        },
        all_optional=True,
    )
)
AFFINITY = obj({"nodeAffinity": ANYTHING, "podAffinity": ANYTHING, "podAntiAffinity": ANYTHING}, all_optional=True)
_SPREAD: Schema = {
    "maxSkew": whole(1),
    "topologyKey": filled(),
    "whenUnsatisfiable": one_of("ScheduleAnyway", "DoNotSchedule"),
    "minDomains": whole(1),
    "nodeAffinityPolicy": one_of("Honor", "Ignore"),
    "nodeTaintsPolicy": one_of("Honor", "Ignore"),
    "matchLabelKeys": array(filled()),
}
SPREAD = array(obj(_SPREAD, optional=("minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy", "matchLabelKeys")))
ENVIRONMENT = array(
    obj(
        {"name": text(r"^[A-Za-z_][A-Za-z0-9_]*$"), "value": text(), "valueFrom": ANYTHING},
        optional=("value", "valueFrom"),
    )
)
PEERS = array(
    obj(
        {"ipBlock": ANYTHING, "podSelector": ANYTHING, "namespaceSelector": ANYTHING},
        all_optional=True,
        minProperties=1,
    )
)
EGRESS = array(obj({"to": PEERS, "ports": array(ANYTHING)}, all_optional=True, minProperties=1))


def image(*, with_own_tag: bool = False) -> Schema:
    """An image; one of somebody else's has a tag of its own, where ours have the chart's."""
    tag = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
    return obj(
        {
            "repository": text(r"^([a-z0-9.-]+:[0-9]+/)?[a-z0-9]+([._/-]+[a-z0-9]+)*$"),
            "tag": text(tag if with_own_tag else "^$|" + tag),
            "digest": text(r"^$|^sha256:[0-9a-f]{64}$"),
        }
    )


def account() -> Schema:
    """A service account."""
    return obj({"name": text(NAME_OR_EMPTY), "annotations": STRINGS})


def placement(*, spread: bool = True) -> Schema:
    """Labels of pods, and where they run."""
    return {
        "podLabels": LABELS,
        "podAnnotations": STRINGS,
        "nodeSelector": STRINGS,
        "tolerations": TOLERATIONS,
        "affinity": AFFINITY,
        "priorityClassName": text(NAME_OR_EMPTY),
        **({"topologySpread": SPREAD} if spread else {}),
    }


def secret(name: str = "existingSecret") -> Schema:
    """An existing Secret and its key."""
    return {name: text(NAME_OR_EMPTY), f"{name}Key": text(r"^[-._a-zA-Z0-9]+$")}


def switched(properties: Schema, needed: Schema) -> Schema:
    """An object with a switch `enabled`, and what must hold of its properties where it is on."""
    on = {"properties": {"enabled": {"const": True}}}
    return {**obj(properties), "if": on, "then": {"properties": needed}}
