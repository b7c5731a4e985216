"""What `ostler up` needs to know beyond the gateway's settings: the engine it starts."""

import shlex
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


class UpSettings(GatewaySettings):
    """Settings of everything that `ostler up` starts. Each is ``OSTLER_<NAME>`` in the environment."""

    engine_port: int = Field(0, ge=0, le=65535, description="Port of the engine, on loopback; 0 takes a free one.")
    max_loras: int = Field(4, ge=1, description="Versions that the engine can use in one batch.")
    max_model_len: int | None = Field(None, ge=1, description="Longest context, tokens; unset is the model's own.")
    dtype: str | None = Field(None, description="Unset: float32 on the CPU, the model's own on a GPU.")
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Size of the KV cache, GiB; unset lets the engine choose."
    )
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="Share of the GPU's memory to use.")
    engine_threads: int | None = Field(None, ge=1, description="Threads of the engine on the CPU.")
    engine_args: str = Field("", description="More arguments for vLLM, as one string.")

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

    def engine_options(self) -> EngineOptions:
        """What the engine is started with."""
        return EngineOptions(
            model=self.base_model,
            served_name=self.base,
            port=self.engine_port,
            max_loras=min(self.max_loras, self.engine_slots),
            max_cpu_loras=self.engine_slots,
            max_lora_rank=self.max_lora_rank,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_gib=self.kv_cache_gib,
            threads=self.engine_threads,
            extra_args=tuple(shlex.split(self.engine_args)),
        )

    def gateway_environment(self) -> dict[str, str]:
        """The gateway's settings as its environment."""
        own = GatewaySettings.model_fields
        return {f"OSTLER_{name.upper()}": str(getattr(self, name)) for name in own}
