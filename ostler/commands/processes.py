"""Commands that run processes. They import what they need when they run, so that the others stay quick."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render


def up(
    base: Annotated[
        str | None, typer.Option(help="Base model: a folder or a Hugging Face id.", show_default="the tiny demo model")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option(help="What clients call it.", show_default="the model's own name")
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="How many engines.", show_default="1")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8080")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder for all state.", show_default="$XDG_DATA_HOME/ostler")
    ] = None,
    engine_args: Annotated[str | None, typer.Option(help="More arguments for vLLM, as one string.")] = None,
) -> None:
    """Start everything on this machine: registry, engines and gateway."""
    from ostler.up import run_up

    given = {
        "base_model": base,
        "base": base_name,
        "replicas": replicas,
        "host": host,
        "port": port,
        "home": home,
        "engine_args": engine_args,
    }
    raise typer.Exit(run_up(_said(given)))


def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8080")] = None,
    base: Annotated[str | None, typer.Option(help="The base model's name in the engines.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The base model's folder; its config.json is read.")] = None,
    engine_url: Annotated[
        str | None,
        typer.Option(help="The engine's address; several with commas.", show_default="http://127.0.0.1:8090"),
    ] = None,
    engine_dns: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Engines at every address of this name, in place of --engine-url."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many processes.", show_default="1")] = None,
) -> None:
    """Start a gateway in front of running engines. The database must be migrated."""
    from ostler.serve import run_gateway

    given = {
        "host": host,
        "port": port,
        "base": base,
        "base_model": base_model,
        "engine_url": engine_url,
        "engine_dns": engine_dns,
        "workers": workers,
    }
    raise typer.Exit(run_gateway(_said(given)))


def monitor(
    host: Annotated[
        str | None, typer.Option(help="Address of its /livez, /readyz and /metrics.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of these.", show_default="8081")] = None,
    gateway_url: Annotated[
        str | None, typer.Option("--url", help="The gateway's address.", show_default="http://127.0.0.1:8080")
    ] = None,
) -> None:
    """Start a monitor: it scores, measures drift and cost, and raises alarms. Further ones stand by."""
    from ostler.serve import run_monitor

    raise typer.Exit(run_monitor(_said({"monitor_host": host, "monitor_port": port, "url": gateway_url})))


def tuner(
    host: Annotated[
        str | None, typer.Option(help="Address of its /livez, /readyz and /metrics.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of these.", show_default="8082")] = None,
    gateway_url: Annotated[
        str | None, typer.Option("--url", help="The gateway's address.", show_default="http://127.0.0.1:8080")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base model whose adapters it tunes.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Its folder or Hugging Face id, with weights.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to train: auto, cpu or cuda.", show_default="auto")] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Where jobs are done: process, or kubernetes (each in a pod).", show_default="process"),
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="ID", help="Do this one tuning job by processes of this machine, then end.")
    ] = None,
) -> None:
    """Start a tuner: it makes new versions, one tuning job after another. Several share the jobs."""
    from ostler.tuners import run_tuner

    given = {
        "tuner_host": host,
        "tuner_port": port,
        "url": gateway_url,
        "base": base,
        "base_model": base_model,
        "tuner_device": device,
        "tuner_backend": backend,
    }
    raise typer.Exit(run_tuner(_said(given), job))


def agent(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8083")] = None,
    engine_url: Annotated[
        str | None, typer.Option(help="The address of its vLLM.", show_default="http://127.0.0.1:8000")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of versions, which that vLLM sees under the same path.")
    ] = None,
) -> None:
    """Start the agent of one vLLM: it fetches versions from the artifact store and has that vLLM load them."""
    from ostler.agents import run_agent

    given = {"agent_host": host, "agent_port": port, "agent_engine_url": engine_url, "agent_cache": cache}
    raise typer.Exit(run_agent(_said(given)))


def migrate(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA",
            help="The schema of another version, such as 0005. Going back loses what that one has no place for.",
            show_default="what this version needs",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Go back even if rows are lost; else say what would be, and do nothing.")
    ] = False,
) -> None:
    """Bring the database's schema to what this version needs, or to what another one does."""
    from ostler.serve import run_migrate

    done = run_migrate(to or "head", may_lose=yes)
    if done.before == done.after:
        render.plain(f"schema {done.after} already")
        return
    render.plain(f"schema {done.before or 'none'} -> {done.after}")
    if done.lost:
        render.err.print(f"Lost: {done.lost_in_words}.", soft_wrap=True)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; the others leave room for the environment and the file."""
    return {name: value for name, value in given.items() if value is not None}
