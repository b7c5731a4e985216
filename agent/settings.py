"""Every setting of the agent, with its meaning and default: flags over environment over ``ostler.toml``."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from registry.home import cache_home, data_home

GIB = 1 << 30


class AgentSettings(BaseSettings):
    """What the agent needs to know. Each is ``OSTLER_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="OSTLER_", toml_file="ostler.toml", extra="ignore", frozen=True)

    agent_host: str = Field("127.0.0.1", description="Address that the agent listens on.")
    agent_port: int = Field(8083, ge=0, le=65535, description="Port that the agent listens on; 0 takes a free one.")
    agent_engine_url: str = Field("http://127.0.0.1:8000", description="Address of the agent's vLLM.")
    agent_token: str = Field(
        "",
        description="Bearer token between gateways and agents; empty, which asks for none, on loopback alone.",
        repr=False,
    )
    agent_cache: Path = Field(
        default_factory=lambda: cache_home() / "agent",
        description="The agent's folder of versions, which its vLLM sees under the same path.",
    )
    agent_cache_gib: float = Field(10.0, gt=0, description="Size that the agent's folder may have, GiB.")
    home: Path = Field(default_factory=data_home, description="Folder of the artifacts if no store is named.")
    artifacts_url: str = Field("", description="Folder or fsspec URL of the artifact store; empty is in `home`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="From which level to log.")

    @field_validator("agent_engine_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or not urlsplit(value).hostname:
            raise ValueError("must be an address like http://HOST:PORT")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _asks_for_a_token(self) -> Self:
        """Whoever manages an agent loads and unloads what serves, and reads probes, which may hold what users said."""
        if not self.agent_token.strip() and not _is_loopback(self.agent_host):
            raise ValueError(
                "agent_token: must be set, to what gateways have in OSTLER_AGENT_TOKEN, as others than this machine "
                "reach the agent on agent_host; or listen on 127.0.0.1"
            )
        return self

    @property
    def artifacts(self) -> str:
        """The artifact store's URL, with the default filled in."""
        return self.artifacts_url or str(self.home / "artifacts")

    @property
    def cache_bytes(self) -> int:
        """The size that the cache may have, bytes."""
        return int(self.agent_cache_gib * GIB)

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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
