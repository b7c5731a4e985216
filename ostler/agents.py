"""Runs an agent, with no more of Ostler in its process than it needs: its image has no database's libraries."""

import difflib
import os
import sys
from typing import Any

from pydantic import ValidationError

from agent.app import create_agent
from agent.settings import AgentSettings
from ostler.client import CommandFailed
from ostler.draining import Grace, serve
from ostler.starting import log_to_standard_error, problem_of, require_free_port

_GRACE = Grace(delay_s=0.0, drain_s=10.0)
_OURS = "OSTLER_AGENT_"


def run_agent(given: dict[str, Any]) -> int:
    """Serve until a signal; the exit code."""
    settings = _settings(given)
    log_to_standard_error(settings.log_level)
    require_free_port(settings.agent_host, settings.agent_port, "set OSTLER_AGENT_PORT")
    try:
        app = create_agent(settings)
    except ValueError as error:
        raise CommandFailed(str(error), 2) from None
    return serve(app, _GRACE, host=settings.agent_host, port=settings.agent_port)


def _settings(given: dict[str, Any]) -> AgentSettings:
    try:
        settings = AgentSettings(**given)
    except ValidationError as error:
        raise CommandFailed(f"a setting is wrong: {'; '.join(map(problem_of, error.errors()))}", 2) from None
    except (OSError, ValueError) as error:
        raise CommandFailed(f"ostler.toml cannot be read: {error}", 2) from None
    _warn_of_unknown_variables()
    return settings


def _warn_of_unknown_variables() -> None:
    """Tell of misspelled variables of the agent; others may be those of processes that share its environment."""
    known = {f"OSTLER_{name.upper()}" for name in AgentSettings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(_OURS) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; is it {near[0]!r}?" if near else ""
            sys.stderr.write(f"warning: there is no setting {name}{hint}\n")
