"""What `ostler up` needs to know beyond the gateway's settings: the engine it starts."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

import demo
from gateway.settings import GatewaySettings
from ostler.engine_command import EngineOptions

_DEMO: dict[str, Any] = {
    "base": demo.BASE_NAME,
    "base_model": str(demo.BASE_DIR),
    "max_model_len": 512,
    "kv_cache_gib": 0.5,
}
HIGHEST_PORT = 65535


class UpSettings(GatewaySettings):
    """Settings of everything that `ostler up` starts. Each is ``OSTLER_<NAME>`` in the environment."""

    replicas: int = Field(1, ge=1, description="Engines to start, each with the base model and any version.")
    engine_port: int = Field(
        0,
        ge=0,
        le=HIGHEST_PORT,
        description="Port of the engine, on loopback; further ones take those above. 0: free ones.",
    )
    max_loras: int = Field(4, ge=1, description="Versions that the engine can use in one batch.")
    max_model_len: int | None = Field(None, ge=1, description="Longest context, tokens; unset is the model's own.")
    dtype: str | None = Field(None, description="Unset: float32 on the CPU, the model's own on a GPU.")
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Size of the KV cache, GiB; unset lets the engine choose."
    )
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="Share of the GPU's memory to use.")
    engine_threads: int | None = Field(None, ge=1, description="Threads of the engine on the CPU.")
    engine_args: str = Field("", description="More arguments for vLLM, as one string.")
    monitor_port: int = Field(
        8081, ge=0, le=HIGHEST_PORT, description="Port of the monitor's metrics, on loopback; 0 takes a free one."
    )
    tuner: bool = Field(default=True, description="Whether to start a tuner, where its libraries are installed.")
    tuner_port: int = Field(
        8082, ge=0, le=HIGHEST_PORT, description="Port of the tuner's metrics, on loopback; 0 takes a free one."
    )
    drain_delay_s: float = Field(0.0, ge=0, description="As the gateway's; nobody balances load on one machine.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_base(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Without a base model it is the demo's; a base model without a name has its own."""
        if not values.get("base_model"):
            if values.get("base", demo.BASE_NAME) != demo.BASE_NAME:
                raise ValueError("base is set, but not base_model: which folder or Hugging Face id is it?")
            return {**_DEMO, **values, "base_model": _DEMO["base_model"], "base": _DEMO["base"]}
        if not values.get("base"):
            model = str(values["base_model"])
            return {**values, "base": Path(model).resolve().name if Path(model).is_dir() else model}
        return values

    @field_validator("engine_args")
    @classmethod
    def _readable(cls, value: str) -> str:
        shlex.split(value)  # raises ValueError, whose words then stand beside the setting's name
        return value

    @field_validator("pools", "engine_dns", "engine_agent_port")
    @classmethod
    def _engines_of_its_own(cls, value: Any) -> Any:
        if value:
            raise ValueError("`ostler up` starts the engines itself, of one base model; `ostler gateway` takes others")
        return value

    @model_validator(mode="after")
    def _ports_in_range(self) -> "UpSettings":
        if self.engine_port + self.replicas - 1 > HIGHEST_PORT:
            raise ValueError(f"engine_port leaves no ports for {self.replicas} replicas")
        return self

    @property
    def is_demo(self) -> bool:
        """Whether the tiny demo model is what is served."""
        return self.base_model == str(demo.BASE_DIR)

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self.home / "logs"

    @property
    def run_folder(self) -> Path:
        """The folder with the ids of running processes."""
        return self.home / "run"

    @property
    def key_file(self) -> Path:
        """The file with this machine's admin key."""
        return self.home / "admin.key"

    def engine_options(self, port: int, gpus: Sequence[str] = ()) -> EngineOptions:
        """What an engine is started with, on a port and, if they are shared out, on some of the GPUs."""
        return EngineOptions(
            model=self.base_model,
            served_name=self.base,
            port=port,
            max_loras=min(self.max_loras, self.engine_slots),
            max_cpu_loras=self.engine_slots,
            max_lora_rank=self.max_lora_rank,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_gib=self.kv_cache_gib,
            threads=self.engine_threads,
            sharing=self.replicas,
            gpus=tuple(gpus),
            extra_args=self.extra_args,
        )

    @property
    def extra_args(self) -> tuple[str, ...]:
        """`engine_args`, word by word."""
        return tuple(shlex.split(self.engine_args))


def gateway_environment(settings: GatewaySettings) -> dict[str, str]:
    """The gateway's settings as the environment of its process, as pydantic-settings reads it."""
    values = settings.model_dump(mode="json", include=set(GatewaySettings.model_fields))
    return {
        f"OSTLER_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value is not None and value != []
    }
