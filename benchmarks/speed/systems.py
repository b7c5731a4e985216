"""What is measured: nothing in between, nginx as a bare proxy, Ostler, LiteLLM's proxy and Portkey's gateway.

Each is set up as its own documentation says for production, with one process, on the cores that it is given.
"""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed import installing
from benchmarks.speed.processes import Command, Running, running
from benchmarks.speed.stock import Stock, stocked
from tests.ports import free_port

PATH = "/v1/chat/completions"
_LITELLM_KEY = "sk-benchmark-0123456789"
_LITELLM = """
model_list:
  - model_name: tiny
    litellm_params: {{model: openai/tiny, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings:
  master_key: {key}
  proxy_batch_write_at: 60
litellm_settings:
  request_timeout: 600
  set_verbose: false
  json_logs: true
"""
_NGINX = """
daemon off;
worker_processes 1;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 10000000;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Serving:
    """A system that serves.

    Attributes:
        process: None where there is none.
        model: what to ask for.
    """

    url: str
    headers: Mapping[str, str]
    process: Running | None
    model: str = "tiny"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a system runs and before what.

    Attributes:
        upstreams: the upstream's ports; only Ostler takes several.
    """

    folder: Path
    cores: Sequence[int]
    upstreams: Sequence[int]


@dataclass(frozen=True, slots=True)
class System:
    """Something to be measured."""

    name: str

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        yield Serving(f"http://127.0.0.1:{setting.upstreams[0]}{PATH}", {}, None)


@dataclass(frozen=True, slots=True)
class Nginx(System):
    """A reverse proxy that does nothing else, event by event: the practical limit.

    Attributes:
        under: a program that runs it, with its arguments; it is one process then.
    """

    under: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=setting.folder))
        configuration = folder / "nginx.conf"
        configuration.write_text(_NGINX.format(folder=folder, port=port, upstream=setting.upstreams[0]))
        argv = (*self.under, "nginx", "-e", "stderr", "-p", str(folder), "-c", str(configuration))
        argv += ("-g", "master_process off;") if self.under else ()
        command = Command(argv, setting.cores, ready=f"http://127.0.0.1:{port}/health")
        async with running(command, folder / "log") as process:
            yield Serving(f"http://127.0.0.1:{port}{PATH}", {}, process)


@dataclass(frozen=True, slots=True)
class Ostler(System):
    """Ostler's gateway.

    Attributes:
        stock: the adapters and keys that it has.
        without: parts that are switched off, see `benchmarks.speed.without`.
        workers: how many processes.
        settings: further environment variables.
        program: the module that is run, with what comes before its command.
        under: a program that runs all this, with its arguments.
    """

    stock: Stock = field(default_factory=Stock)
    without: tuple[str, ...] = ()
    workers: int = 1
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    program: tuple[str, ...] = ("ostler",)
    under: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=setting.folder))
        key = await stocked(folder, self.stock)
        engines = ",".join(f"http://127.0.0.1:{upstream}" for upstream in setting.upstreams)
        arguments = ("gateway", "--base", "tiny", "--engine-url", engines, "--port", str(port))
        program = ("benchmarks.speed.without", ",".join(self.without)) if self.without else self.program
        argv = (*self.under, sys.executable, "-m", *program, *arguments, "--workers", str(self.workers))
        env = {
            "OSTLER_HOME": str(folder / "home"),
            "OSTLER_CACHE": str(folder / "cache"),
            "OSTLER_DRAIN_DELAY_S": "0",
            "OSTLER_MAX_IN_FLIGHT": "2048",
            **self.stock.environment,
            **self.settings,
        }
        command = Command(argv, setting.cores, env, ready=f"http://127.0.0.1:{port}/readyz")
        async with running(command, folder / "log") as process:
            headers = {"authorization": f"Bearer {key}"}
            yield Serving(f"http://127.0.0.1:{port}{PATH}", headers, process, self.stock.model)


@dataclass(frozen=True, slots=True)
class LiteLLM(System):
    """LiteLLM's proxy, as its checklist for production has it, with its master key and no database."""

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=setting.folder))
        configuration = folder / "config.yaml"
        configuration.write_text(_LITELLM.format(upstream=setting.upstreams[0], key=_LITELLM_KEY))
        argv = (str(installing.LITELLM), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port))
        env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
        command = Command(
            (*argv, "--num_workers", "1"), setting.cores, env, f"http://127.0.0.1:{port}/health/liveliness"
        )
        async with running(command, folder / "log") as process:
            yield Serving(f"http://127.0.0.1:{port}{PATH}", {"authorization": f"Bearer {_LITELLM_KEY}"}, process)


@dataclass(frozen=True, slots=True)
class Portkey(System):
    """Portkey's gateway, as its own server for Node."""

    @contextlib.asynccontextmanager
    async def serving(self, setting: Setting) -> AsyncIterator[Serving]:
        """Run it for the block."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=setting.folder))
        argv = ("node", str(installing.PORTKEY), "--headless", f"--port={port}")
        command = Command(argv, setting.cores, {"NODE_ENV": "production"}, f"http://127.0.0.1:{port}/")
        headers = {
            "authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{setting.upstreams[0]}/v1",
        }
        async with running(command, folder / "log") as process:
            yield Serving(f"http://127.0.0.1:{port}{PATH}", headers, process)


DIRECT, NGINX, OSTLER = System("nothing in between"), Nginx("nginx"), Ostler("Ostler")
LITELLM, PORTKEY = LiteLLM("LiteLLM"), Portkey("Portkey")
