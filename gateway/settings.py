"""Every setting of the gateway, with its meaning and default: flags over environment over ``ostler.toml``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from registry.home import cache_home, data_home


class GatewaySettings(BaseSettings):
    """What the gateway needs to know. Each is ``OSTLER_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_", toml_file="ostler.toml", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    home: Path = Field(default_factory=data_home, description="Folder of the embedded database, artifacts and key.")
    cache: Path = Field(default_factory=cache_home, description="Folder of unfinished uploads and copied artifacts.")
    database_url: str = Field("", description="SQLite or PostgreSQL; empty is SQLite in `home`.")
    artifacts_url: str = Field("", description="Folder or fsspec URL of the artifact store; empty is in `home`.")

    base: str = Field("", description="Name of the base model, as clients say it.")
    base_model: str = Field(
        "", description="Folder of the base model (its config.json is read); empty if unknown here."
    )
    engine_url: str = Field("http://127.0.0.1:8090", description="Address of vLLM's OpenAI server.")
    engine_slots: int = Field(8, ge=1, description="Versions kept loaded in the engine (vLLM's --max-cpu-loras).")
    max_lora_rank: int = Field(16, ge=1, le=512, description="Highest LoRA rank the engine takes.")

    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest body of a client's request, bytes.")
    max_push_bytes: int = Field(2 << 30, ge=1024, description="Largest pushed archive and its unpacked size, bytes.")
    request_timeout_s: float = Field(600.0, gt=0, description="A request's deadline, seconds.")
    engine_wait_s: float = Field(
        30.0, ge=0, description="How long a request waits for an engine that is down, seconds."
    )
    poll_s: float = Field(1.0, gt=0, description="Pause between looks at the engine and the database, seconds.")
    probe_timeout_s: float = Field(60.0, gt=0, description="Longest load or probe of a version, seconds.")
    drain_s: float = Field(30.0, ge=0, description="How long a stopping gateway lets running requests finish, seconds.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="From which level to log.")

    @field_validator("engine_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'ostler.db'}"

    @property
    def artifacts(self) -> str:
        """The artifact store's URL, with the default filled in."""
        return self.artifacts_url or str(self.home / "artifacts")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
