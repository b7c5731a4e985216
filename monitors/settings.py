"""Settings that every process of ours reads, and those of the monitor: flags over environment over ``ostler.toml``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from monitors.money.pricing import PricedSettings
from registry.home import cache_home, data_home


class StorageSettings(BaseSettings):
    """Where state is. Each is ``OSTLER_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_", toml_file="ostler.toml", extra="ignore", frozen=True)

    home: Path = Field(default_factory=data_home, description="Folder of the embedded database, artifacts and key.")
    cache: Path = Field(default_factory=cache_home, description="Folder of unfinished uploads and copied artifacts.")
    database_url: str = Field("", description="SQLite or PostgreSQL; empty is SQLite in `home`.")
    artifacts_url: str = Field("", description="Folder or fsspec URL of the artifact store; empty is in `home`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="From which level to log.")

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


class MonitorSettings(StorageSettings, PricedSettings):
    """What the monitor needs to know. Each is ``OSTLER_<NAME>`` in the environment."""

    url: str = Field("http://127.0.0.1:8080", description="The gateway's address.")
    api_key: str = Field("", description="An admin key for it; empty is the one in `home`.", repr=False)
    monitor_host: str = Field("127.0.0.1", description="Address of the monitor's own /livez, /readyz and /metrics.")
    monitor_port: int = Field(8081, ge=0, le=65535, description="Port of these; 0 takes a free one.")
    judge_url: str = Field("", description="OpenAI-compatible endpoint of the LLM judge; empty is the gateway's own.")
    judge_model: str = Field("", description="The judge's model; empty has no judge.")
    judge_api_key: str = Field("", description="Its API key.", repr=False)
    teacher_url: str = Field("", description="OpenAI-compatible endpoint of a teacher for retraining; empty has none.")
    teacher_model: str = Field("", description="Its model.")
    teacher_api_key: str = Field("", description="Its API key.", repr=False)
    teacher_per_minute: float = Field(30.0, gt=0, description="Prompts that the teacher is asked in a minute.")
    teacher_max_tokens: int = Field(1024, ge=1, description="Tokens of its answer.")
    teacher_price_in: float = Field(0.0, ge=0, description="Of a million tokens of prompts.")
    teacher_price_out: float = Field(0.0, ge=0, description="Of a million tokens of answers.")
    teacher_budget: float = Field(0.0, ge=0, description="What its answers may cost in a calendar month (UTC).")
    embeddings_url: str = Field("", description="OpenAI-compatible endpoint of embeddings for drift; empty has none.")
    embeddings_model: str = Field("", description="Its model.")
    embeddings_api_key: str = Field("", description="Its API key.", repr=False)
    score_every_s: float = Field(5.0, gt=0, description="Pause between looks for answers to score, seconds.")
    loop_every_s: float = Field(2.0, gt=0, description="Pause between turns of the closed loop, seconds.")
    evaluation_concurrency: int = Field(2, ge=1, description="The monitor's own requests at the gateway at once.")
    likelihood_per_minute: int = Field(
        30, ge=0, description="Captured answers whose likelihood is asked for, in a minute; 0 asks for none."
    )
    request_log_days: float = Field(90.0, gt=0, description="How long the request log is kept, days.")

    @field_validator("url", "judge_url", "teacher_url", "embeddings_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def key(self) -> str:
        """The gateway's admin key, from the settings or from this machine's file; empty if there is none."""
        file = self.home / "admin.key"
        return self.api_key or (file.read_text().strip() if file.exists() else "")
