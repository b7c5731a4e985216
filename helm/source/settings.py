"""The schema of the values `settings`: the processes' own settings, but for those that the chart sets itself."""

from typing import Any

from pydantic import BaseModel

from gateway.settings import GatewaySettings, PoolSettings
from helm.source.shapes import Schema, obj
from monitors.money.pricing import Pricing
from monitors.settings import MonitorSettings, StorageSettings
from tuner.settings import TunerSettings

# Said by values of their own, or by the pods.
_OWN = {
    GatewaySettings: {
        *("host", "port", "base", "base_model", "engine_url", "engine_dns", "engine_slots", "engine_agent_port"),
        *("max_lora_rank", "limits_url", "drain_delay_s", "drain_s"),
    },
    MonitorSettings: {"url", "monitor_host", "monitor_port"},
    TunerSettings: {
        *("url", "base", "base_model", "max_lora_rank", "max_model_len", "tuner_host", "tuner_port", "tuner_name"),
        *("tuner_backend", "tuner_job_template", "tuner_namespace", "tuner_max_pods", "tuner_deadline_s"),
        *("tuner_ttl_s", "tuner_processes", "tuner_stop_s"),
    },
}
_KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "description")


def settings_of(cls: type[BaseModel]) -> Schema:
    """The settings of a process that the chart leaves to the operator. Secrets belong into `extraEnv`."""
    left_out = {*StorageSettings.model_fields, "pools", *_OWN[cls]}
    return _of(cls, [name for name, field in cls.model_fields.items() if name not in left_out and field.repr])


def pricing() -> Schema:
    """What a pool's tokens may cost."""
    return _of(Pricing, list(Pricing.model_fields))


def external_pool() -> Schema:
    """An entry of the setting `pools`."""
    return _of(PoolSettings, list(PoolSettings.model_fields))


def _of(cls: type[BaseModel], names: list[str]) -> Schema:
    properties = cls.model_json_schema()["properties"]
    return obj({name: _shape(properties[name]) for name in sorted(names)}, all_optional=True)


def _shape(found: dict[str, Any]) -> Schema:
    """The shape of a field as pydantic tells it; what may be unset there is left out of the values here."""
    variants = [one for one in found.get("anyOf", [found]) if one.get("type") != "null"]
    shape = {**found, **variants[0]}
    return {name: shape[name] for name in _KEPT if name in shape}
