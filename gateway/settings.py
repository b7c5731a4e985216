"""Every setting of the gateway, with its meaning and default: flags over environment over ``ostler.toml``."""

from functools import cached_property
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator
from pydantic_settings import NoDecode

from monitors.money.pricing import PricedPool, PricedSettings
from monitors.privacy.phones import REGIONS, PhoneFinder
from monitors.privacy.redaction import KINDS, Redactor
from monitors.settings import StorageSettings


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("must be HOST:PORT")
    return value


def _address(url: str) -> str:
    url = url.strip()
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    _require_host(url)
    return url.rstrip("/")


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",") if word.strip()]


def _require_host(url: str) -> None:
    try:
        parts = urlsplit(url)
        found = bool(parts.hostname) and parts.port != 0  # to ask for the port checks it
    except ValueError:  # its words hold a part of the URL, which can be one of a password
        found = False
    if not found:
        raise ValueError("must be an address like http://HOST:PORT")


class PoolSettings(PricedPool):
    """The engines of one base model; see the settings of the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str = ""
    engine_url: str = ""
    engine_dns: str = ""
    engine_agent_port: int = Field(0, ge=0, le=65535)
    engine_slots: int = Field(8, ge=1)
    max_lora_rank: int = Field(16, ge=1, le=512)

    @property
    def engine_urls(self) -> tuple[str, ...]:
        """The static list of engines."""
        return tuple(_address(one) for one in self.engine_url.split(",") if one)


def _check_engines(pool: PoolSettings) -> None:
    """That a listed pool says in one way where its engines are."""
    if bool(pool.engine_url) == bool(pool.engine_dns):
        raise ValueError("must have engine_url or engine_dns" + (", not both" if pool.engine_url else ""))
    try:
        _ = pool.engine_urls
    except ValueError as error:
        raise ValueError(f"engine_url {error}") from None
    try:
        _host_and_port(pool.engine_dns)
    except ValueError as error:
        raise ValueError(f"engine_dns {error}") from None


class GatewaySettings(StorageSettings, PricedSettings):
    """What the gateway needs to know. Each is ``OSTLER_<NAME>`` in the environment."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    base: str = Field("", description="Name of the base model, as clients say it.")
    base_model: str = Field(
        "", description="Folder of the base model (its config.json is read); empty if unknown here."
    )
    engine_url: str = Field(
        "http://127.0.0.1:8090", description="Address of vLLM's OpenAI server; several are separated by commas."
    )
    engine_dns: str = Field(
        "", description="HOST:PORT whose every address is an engine, such as a headless Service; replaces engine_url."
    )
    engine_agent_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the agent at each engine's host, which loads versions there; "
        "0: there is none, and engines read the artifact store themselves.",
    )
    agent_token: str = Field("", description="Bearer token between gateways and agents; empty sends none.", repr=False)
    engine_slots: int = Field(8, ge=1, description="Versions kept loaded in each engine (vLLM's --max-cpu-loras).")
    max_lora_rank: int = Field(16, ge=1, le=512, description="Highest LoRA rank the engine takes.")
    pools: Annotated[tuple[PoolSettings, ...], NoDecode] = Field(
        (), description="Several base models with an engine each or more; replaces base, base_model and engine_*."
    )

    homes: int = Field(0, ge=0, description="Home replicas of each version; 0 is all of them, up to 3.")
    home_bound: int = Field(32, ge=1, description="Requests at a home replica above which others help out.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which a version is left alone.")
    breaker_pause_s: float = Field(1.0, gt=0, description="First pause of what failed, seconds; doubled each time.")
    breaker_longest_s: float = Field(60.0, gt=0, description="Longest such pause, seconds.")
    probe_tolerance: float = Field(
        0.25, gt=0, description="How far the engine's log probabilities may lie from those stored with a version."
    )
    probe_min_difference: float = Field(
        0.001, ge=0, description="How far a version's log probabilities must at least lie from the base model's."
    )

    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest body of a client's request, bytes.")
    max_push_bytes: int = Field(2 << 30, ge=1024, description="Largest pushed archive and its unpacked size, bytes.")
    max_file_bytes: int = Field(512 << 20, ge=1024, description="Largest file of training or evaluation data, bytes.")
    max_open_jobs: int = Field(100, ge=1, description="Fine-tuning jobs of one API key that may be open at once.")
    request_timeout_s: float = Field(600.0, gt=0, description="A request's deadline, seconds.")
    max_in_flight: int = Field(1024, ge=1, description="Requests at the engines at once, per process; others queue.")
    max_queued: int = Field(1024, ge=0, description="Requests that may queue, per process; others get 503.")
    queue_wait_s: float = Field(30.0, ge=0, description="Longest wait in that queue, seconds.")
    retry_ratio: float = Field(0.2, ge=0, le=1, description="Share of requests that may be sent again to a replica.")
    shadow_concurrency: int = Field(8, ge=1, description="Shadow requests at the engines at once, per process.")
    limits_url: str = Field(
        "", description="Where limits are counted: redis://HOST:PORT for several gateways; empty is in memory."
    )
    feedback_wait_s: float = Field(
        4.0, ge=0, le=30, description="How long feedback waits until its request is recorded, seconds."
    )
    record_buffer: int = Field(100_000, ge=1, description="Request records kept while the database is away.")
    redact: str = Field(
        ",".join(KINDS), description="What is taken out of text before it is stored; empty takes out nothing."
    )
    phone_regions: str = Field(
        ",".join(REGIONS), description="Countries whose phone numbers are found without a country code, too."
    )
    capture_bytes: int = Field(
        256 << 10, ge=1024, description="Largest prompt and answer together that are kept where capture is on, bytes."
    )
    otlp_endpoint: str = Field(
        "", description="Address of an OpenTelemetry collector (OTLP over HTTP) for traces; empty makes none."
    )
    otlp_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of requests traced, of those that continue no client's trace."
    )

    engine_wait_s: float = Field(
        30.0, ge=0, description="How long a request waits for an engine that is down, seconds."
    )
    poll_s: float = Field(1.0, gt=0, description="Pause between looks at the engines, seconds.")
    follow_s: float = Field(0.25, gt=0, description="Pause between looks for changes in the database, seconds.")
    probe_timeout_s: float = Field(60.0, gt=0, description="Longest load or probe of a version, seconds.")
    idle_unload_s: float = Field(
        300.0, gt=0, description="After so long without use a version that is in no deployment is unloaded, seconds."
    )
    body_timeout_s: float = Field(
        60.0, gt=0, description="Longest time for a client to send its body, or between parts of an upload, seconds."
    )
    stall_timeout_s: float = Field(60.0, gt=0, description="Longest time for a client to take what is sent, seconds.")
    drain_delay_s: float = Field(
        5.0,
        ge=0,
        description="After SIGTERM: not ready but still taking requests, until load balancers have seen it, seconds.",
    )
    drain_s: float = Field(30.0, ge=0, description="How long a stopping gateway lets running requests finish, seconds.")
    workers: int = Field(1, ge=1, description="Processes of this gateway on its one port.")

    _check_dns = field_validator("engine_dns")(_host_and_port)

    @field_validator("engine_url")
    @classmethod
    def _http(cls, value: str) -> str:
        return ",".join(_address(one) for one in value.split(","))

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, value: str) -> str:
        return _address(value) if value else value

    @field_validator("limits_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        if value:
            from redis.asyncio.connection import parse_url  # here, because counting in memory needs none of it

            try:
                parse_url(value)
            except ValueError:  # its words hold a part of the URL, which can be one of a password
                raise ValueError("must be redis://HOST:PORT, rediss://HOST:PORT or unix://SOCKET") from None
        return value

    @field_validator("pools")
    @classmethod
    def _check_pools(cls, pools: tuple[PoolSettings, ...]) -> tuple[PoolSettings, ...]:
        bases = set()
        for pool in pools:
            if pool.base in bases:
                raise ValueError(f"there are two of the base {pool.base!r}; list all its engines in one")
            bases.add(pool.base)
            try:
                _check_engines(pool)
            except ValueError as error:
                raise ValueError(f"the pool of {pool.base!r} is wrong: {error}") from None
        return pools

    @field_validator("redact")
    @classmethod
    def _check_redact(cls, value: str) -> str:
        Redactor(_words(value))
        return value

    @field_validator("phone_regions")
    @classmethod
    def _check_regions(cls, value: str) -> str:
        PhoneFinder(_words(value))
        return value

    @cached_property
    def redactor(self) -> Redactor:
        """What takes out of text what must not be stored."""
        return Redactor(_words(self.redact), _words(self.phone_regions))

    @property
    def all_pools(self) -> tuple[PoolSettings, ...]:
        """The pools, the one of the flat settings if none is listed."""
        own = PoolSettings.model_fields
        return self.pools or (PoolSettings(**{name: getattr(self, name) for name in own}),)
