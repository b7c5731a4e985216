"""Runs a tuner: one that looks for jobs, one that does a single job, or one that has a cluster do them.

They import what they need when they run, because no other process of ours needs the libraries of the tuner's gate.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from litestar import Litestar

from ostler.client import CommandFailed
from ostler.draining import Grace, serve
from ostler.serve import (
    check_database,
    read_settings,
    require_folder,
    set_up_logging,
    warn_of_unknown_variables,
)
from ostler.starting import require_free_port
from tuner.libraries import missing_libraries
from tuner.nodes import Nodes
from tuner.settings import TunerSettings

_DATABASE_WAIT_S = 60.0
_LOOK_S = 2.0

logger = logging.getLogger(__name__)


def run_tuner(given: dict[str, Any], job_id: str | None = None) -> int:
    """Tune until a signal, or do the one job; the exit code (see `tuner.single` for that of one job)."""
    settings = read_settings(TunerSettings, given)
    warn_of_unknown_variables()
    set_up_logging(settings)
    if settings.tuner_backend == "kubernetes" and job_id is None:
        return _run_dispatcher(settings)
    if missing := missing_libraries():
        raise CommandFailed(f"the tuner needs {', '.join(missing)}: pip install 'ostler[tuner]'")
    require_folder(settings.base_model, settings.base)
    if job_id is None:
        return _run_worker(settings)
    nodes = _nodes()
    if nodes.count > 1 and settings.tuner_sharing != "none":
        raise CommandFailed("several machines that train together share no GPU with an engine: OSTLER_TUNER_SHARING", 2)
    return _run_job(settings, job_id) if nodes.is_first else _run_along(settings, job_id, nodes)


def _run_worker(settings: TunerSettings) -> int:
    require_free_port(settings.tuner_host, settings.tuner_port, "set OSTLER_TUNER_PORT")
    asyncio.run(check_database(settings))
    from tuner.app import create_tuner

    try:
        app = create_tuner(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    return _serve(app, settings)


def _run_job(settings: TunerSettings, job_id: str) -> int:
    """Do one job; the process then stops as if it had been told to."""
    require_free_port(settings.tuner_host, settings.tuner_port, "set OSTLER_TUNER_PORT")
    _wait_for_database(settings)
    from tuner.app import create_tuner
    from tuner.single import exit_code

    end = _End()
    try:
        app = create_tuner(settings, job_id, end.job_is_done)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    code = _serve(app, settings, end.server_has_started)
    outcome = app.state.get("outcome")
    return code or 1 if outcome is None else exit_code(outcome)


class _End:
    """Stops this process once its job is done and its server has started: a start that is broken off ends in errors."""

    def __init__(self) -> None:
        self._awaited = {"job", "server"}

    def job_is_done(self) -> None:
        self._came("job")

    def server_has_started(self) -> None:
        self._came("server")

    def _came(self, what: str) -> None:
        self._awaited.discard(what)
        if not self._awaited:
            signal.raise_signal(signal.SIGTERM)


def _run_along(settings: TunerSettings, job_id: str, nodes: Nodes) -> int:
    """Train along with another machine that does the job."""
    _wait_for_database(settings)
    from tuner.joining import join

    return asyncio.run(join(settings, job_id, nodes))


def _run_dispatcher(settings: TunerSettings) -> int:
    if find_spec("kubernetes") is None:
        raise CommandFailed("the kubernetes backend needs its client: pip install 'ostler[kubernetes]'")
    require_free_port(settings.tuner_host, settings.tuner_port, "set OSTLER_TUNER_PORT")
    asyncio.run(check_database(settings))
    from tuner.cluster.app import create_dispatcher

    try:
        app = create_dispatcher(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    return _serve(app, settings)


def _serve(app: Litestar, settings: TunerSettings, on_started: Callable[[], None] = lambda: None) -> int:
    grace = Grace(delay_s=0.0, drain_s=settings.tuner_stop_s)
    return serve(app, grace, host=settings.tuner_host, port=settings.tuner_port, on_started=on_started)


def _nodes() -> Nodes:
    try:
        return Nodes.of_this_process()
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None


def _wait_for_database(settings: TunerSettings) -> None:
    """A database that is away for a moment would cost the pod that was started for the job.

    Raises:
        CommandFailed: it was away for too long.
    """
    until = time.monotonic() + _DATABASE_WAIT_S
    while True:
        try:
            asyncio.run(check_database(settings))
        except CommandFailed as failed:
            if time.monotonic() >= until:
                raise
            logger.warning("%s; it is tried again", failed)
            time.sleep(_LOOK_S)
        else:
            return
