"""`ostler up`: everything on one machine. Sets up what is missing, starts the processes, and says when they serve."""

import asyncio
import contextlib
import json
import shlex
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

import demo
from demo import retention
from gateway.app import base_specs
from ostler import leash, render
from ostler.client import ADDRESS_FILE, CommandFailed, home
from ostler.devices import gpu_groups
from ostler.draining import Grace
from ostler.engine_command import Device, EngineCommandError, engine_command, installed_build
from ostler.local import ensure_admin_key, local_registry, register_demo
from ostler.serve import (
    migrate_database,
    read_settings,
    require_shared_limits,
    warn_of_unknown_variables,
)
from ostler.settings import UpSettings, gateway_environment
from ostler.starting import require_free_port
from ostler.supervisor import AlreadyRunning, ChildEvent, ChildFailed, ChildSpec, Command, Supervisor, claim
from ostler.tuner_gpu import tuner_gpu
from tuner.libraries import missing_libraries
from tuner.settings import TunerSettings

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_EVERY_S = 0.5
_STILL_STARTING_EVERY_S = 15.0
_MONITOR_NICENESS = 10
"""It stands back for the gateway and the engines' callers where the cores are busy."""
_TUNER_NICENESS = 19
"""It stands back for the engines, too, which on the CPU have 10: clients never wait for tuning."""
LOOPBACK = "127.0.0.1"


def run_up(given: dict[str, Any]) -> int:
    """Run until a signal; the exit code.

    Raises:
        CommandFailed: it cannot be started as asked; the message says why.
    """
    settings = read_settings(UpSettings, given)
    warn_of_unknown_variables()
    require_shared_limits(settings)
    _make_home(settings.home)
    try:
        # Held from here to the end, so that nobody sets up the same home meanwhile or takes our children for leftovers.
        with claim(settings.run_folder):
            leash.end_leftovers(settings.run_folder)  # what an earlier run left when it was killed may hold our port
            require_free_port(settings.host, settings.port)
            require_free_port(LOOPBACK, settings.monitor_port, "set OSTLER_MONITOR_PORT")
            if settings.tuner and not missing_libraries():
                require_free_port(LOOPBACK, settings.tuner_port, "set OSTLER_TUNER_PORT")
            return asyncio.run(_Up(_with_ports(settings)).run())
    except (EngineCommandError, AlreadyRunning, ValueError) as error:
        raise CommandFailed(str(error)) from None
    except ChildFailed as failed:
        last = "".join(f"\n    {line}" for line in failed.log_tail[-8:])
        log = settings.logs / f"{failed.name}.log"
        raise CommandFailed(
            f"{_called(failed.name)} did not start (exit code {failed.exit_code}); its log is {log}{last}"
        ) from None


def _with_ports(settings: UpSettings) -> UpSettings:
    """The settings with free ports where they leave them open, and with the addresses that follow from them."""
    port, monitor_port, tuner_port, *free = _free_ports(3 + settings.replicas)
    fixed = range(settings.engine_port, settings.engine_port + settings.replicas)
    engines = [f"http://127.0.0.1:{each}" for each in (fixed if settings.engine_port else free)]
    ports = {
        "port": settings.port or port,
        "monitor_port": settings.monitor_port or monitor_port,
        "tuner_port": settings.tuner_port or tuner_port,
    }
    return settings.model_copy(update={**ports, "engine_url": ",".join(engines)})


class _Up:
    """One run of `ostler up`."""

    def __init__(self, settings: UpSettings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Set up, start, serve, stop."""
        settings = self._settings
        build = installed_build()
        specs = [*self._engines(build), self._gateway(), self._monitor(), *self._tuners(build)]
        await migrate_database(settings)
        async with local_registry(settings, *base_specs(settings)) as registry:
            new_key = await ensure_admin_key(registry, settings.key_file)
            if settings.is_demo:
                await register_demo(registry)
        self._say(f"state is in {settings.home}, logs are in {settings.logs}")
        what = "the engine" if settings.replicas == 1 else f"{settings.replicas} engines"
        self._say(f"starting {what}: vLLM's {build.upper()} build with {settings.base}, a minute or so")
        for number in _STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        announcing = asyncio.create_task(self._announce_when_ready(new_key))
        try:
            await Supervisor(specs, settings.run_folder, self._tell, claimed=True).run(self._stop)
        finally:
            announcing.cancel()
        self._say("stopped")
        return 0

    def _engines(self, build: Device) -> list[ChildSpec]:
        settings = self._settings
        urls = settings.engine_url.split(",")
        several = len(urls) > 1
        groups = gpu_groups(len(urls), settings.extra_args) if several and build == "gpu" else [()] * len(urls)
        return [
            self._engine(f"engine-{number}" if several else "engine", url, gpus, build)
            for number, (url, gpus) in enumerate(zip(urls, groups, strict=True))
        ]

    def _engine(self, name: str, url: str, gpus: Sequence[str], build: Device) -> ChildSpec:
        settings = self._settings
        options = settings.engine_options(int(url.rpartition(":")[2]), gpus)
        return ChildSpec(
            name=name,
            command=engine_command(options, build),
            log_path=settings.logs / f"{name}.log",
            is_healthy=_answers(f"{url}/health"),
        )

    def _gateway(self) -> ChildSpec:
        settings = self._settings
        return ChildSpec(
            name="gateway",
            command=Command((sys.executable, "-m", "ostler", "gateway"), gateway_environment(settings)),
            log_path=settings.logs / "gateway.log",
            is_healthy=_answers(f"{self._address}/livez"),
            stop_grace_s=Grace(settings.drain_delay_s, settings.drain_s).longest_s + 5.0,
        )

    def _monitor(self) -> ChildSpec:
        settings = self._settings
        return ChildSpec(
            name="monitor",
            command=Command(
                (sys.executable, "-m", "ostler", "monitor"),
                self._environment() | {"OSTLER_MONITOR_PORT": str(settings.monitor_port)},
                niceness=_MONITOR_NICENESS,
            ),
            log_path=settings.logs / "monitor.log",
            is_healthy=_answers(f"http://{LOOPBACK}:{settings.monitor_port}/livez"),
        )

    def _tuners(self, build: Device) -> list[ChildSpec]:
        """A tuner, unless it is not wanted or cannot run here; serving goes on without it."""
        settings = self._settings
        if not settings.tuner:
            return []
        if missing := missing_libraries():
            self._say(f"no tuner: {', '.join(missing)} not installed (pip install 'ostler\\[tuner]')")
            return []
        own = read_settings(TunerSettings, {})
        gpu = tuner_gpu(settings, own, build)
        if gpu.words:
            self._say(gpu.words)
        return [
            ChildSpec(
                name="tuner",
                command=Command(
                    (sys.executable, "-m", "ostler", "tuner"),
                    self._environment() | self._tuner_environment(own) | dict(gpu.environment),
                    niceness=_TUNER_NICENESS,
                ),
                log_path=settings.logs / "tuner.log",
                is_healthy=_answers(f"http://{LOOPBACK}:{settings.tuner_port}/livez"),
                stop_grace_s=Grace(delay_s=0.0, drain_s=own.tuner_stop_s).longest_s + 5.0,
            )
        ]

    def _tuner_environment(self, own: TunerSettings) -> dict[str, str]:
        settings = self._settings
        environment = {"OSTLER_TUNER_HOST": LOOPBACK, "OSTLER_TUNER_PORT": str(settings.tuner_port)}
        if settings.max_model_len is not None:
            environment["OSTLER_MAX_MODEL_LEN"] = str(settings.max_model_len)
        if settings.is_demo and not own.retention_set:
            environment["OSTLER_RETENTION_SET"] = str(retention.FILE)  # the tiny model has skills of its own
        return environment

    def _environment(self) -> dict[str, str]:
        """What the gateway's companions need to know."""
        # The key is this machine's, whatever the caller's own environment says of other gateways.
        return gateway_environment(self._settings) | {"OSTLER_URL": self._address, "OSTLER_API_KEY": ""}

    @property
    def _address(self) -> str:
        listens = self._settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(listens, listens)  # noqa: S104 - how to reach it from here
        return f"http://{host}:{self._settings.port}"

    def _say(self, words: str) -> None:
        render.out.print(f"[dim]\\[{time.monotonic() - self._began:5.1f} s][/] {words}", soft_wrap=True)

    def _tell(self, event: ChildEvent) -> None:
        name = _called(event.name)
        match event.kind:
            case "healthy":
                self._say(f"{name} is up")
            case "died" if not self._stop.is_set():
                why = event.reason or f"exit code {event.exit_code}"
                self._say(f"[red]{name} died ({why})[/]; its log is {self._settings.logs / event.name}.log")
            case "restarting" if not self._stop.is_set():
                self._say(f"{name} is started again in {event.pause_s:g} s")

    async def _announce_when_ready(self, new_key: str | None) -> None:
        ready = _answers(f"{self._address}/readyz")
        told = time.monotonic()
        while not await ready():
            await asyncio.sleep(_LOOK_EVERY_S)
            if time.monotonic() - told > _STILL_STARTING_EVERY_S:
                told = time.monotonic()
                self._say("still starting")
        (self._settings.home / ADDRESS_FILE).write_text(self._address + "\n")
        self._announce(new_key)

    def _announce(self, new_key: str | None) -> None:
        settings = self._settings
        self._say("[bold green]ready[/]")
        file = shlex.quote(str(settings.key_file))
        model, message = ("support", demo.EXAMPLE_MESSAGE) if settings.is_demo else (settings.base, "Hello!")
        shown = f"{new_key}  (shown this once; kept in {file})" if new_key else f"in {file}"
        body = json.dumps({"model": model, "temperature": 0, "messages": [{"role": "user", "content": message}]})
        curl = f'curl -s {self._address}/v1/chat/completions -H "Authorization: Bearer $(cat {file})"'
        lines = [
            "",
            f"  OpenAI endpoint  {self._address}/v1",
            f"  API key          {shown}",
            f"  Metrics          {self._address}/metrics and http://{LOOPBACK}:{settings.monitor_port}/metrics",
            "",
            "Try it:",
            "",
            f"  {curl} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            "",
        ]
        if settings.is_demo:
            lines += [
                "Then take the earlier version back, and ask again:",
                "",
                f"  {self._command()} rollback support",
                "",
            ]
        render.plain("\n".join(lines))

    def _command(self) -> str:
        """How this command was called, so that what is printed can be pasted."""
        called = "ostler" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
        where = "" if self._settings.home == home() else f"OSTLER_HOME={shlex.quote(str(self._settings.home))} "
        return where + called


def _called(name: str) -> str:
    """A child's name in a sentence: `the gateway`, `engine-1`."""
    return name if "-" in name else f"the {name}"


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    """A check that is true while `url` answers 200."""

    async def check() -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=4.0)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
                return response.status == 200
        return False

    return check


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CommandFailed(f"the folder {home} cannot be made: {error.strerror}; OSTLER_HOME names another") from None


def _free_ports(count: int) -> list[int]:
    """Different ones, because each is held until all are found."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
