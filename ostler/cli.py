"""The `ostler` command: what commands there are.

Exit codes: 0 done, 1 refused or failed (the message says why), 2 the command line is wrong, 3 no gateway answers.
"""

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from ostler import render
from ostler.client import CommandFailed
from ostler.commands import (
    adapters,
    costs,
    data,
    datasets,
    decisions,
    demo,
    deployments,
    drift,
    feedback,
    golden,
    jobs,
    keys,
    labelling,
    loop,
    monitoring,
    operators,
    policy,
    processes,
    quality,
    requests,
    tuning,
    webhooks,
    why,
)

_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Processes": {
        "up": processes.up,
        "gateway": processes.gateway,
        "monitor": processes.monitor,
        "tuner": processes.tuner,
        "agent": processes.agent,
        "demo": demo.demo,
        "migrate": processes.migrate,
    },
    "Adapters": {
        "push": adapters.push,
        "list": adapters.list_adapters,
        "show": adapters.show_adapter,
        "verify": adapters.verify,
        "archive": adapters.archive,
    },
    "Deployments": {
        "promote": deployments.promote,
        "canary": deployments.canary,
        "shadow": deployments.shadow,
        "fallback": deployments.fallback,
        "rollback": deployments.rollback,
        "history": deployments.history,
    },
    "Tuning": {"tune": tuning.tune, "datasets": datasets.datasets},
    "Judging": {
        "monitoring": monitoring.monitoring,
        "quality": quality.quality,
        "drift": drift.drift,
        "decisions": decisions.decisions,
        "evaluate": golden.evaluate,
        "evaluations": golden.evaluations,
    },
    "Loop": {
        "why": why.why,
        "pause": loop.pause,
        "resume": loop.resume,
        "approve": loop.approve,
        "reject": loop.reject,
        "freeze": loop.freeze,
        "unfreeze": loop.unfreeze,
    },
    "Requests": {
        "requests": requests.requests,
        "usage": requests.usage,
        "costs": costs.costs,
        "export": requests.export,
        "forget": requests.forget,
    },
    "Operators": {"replicas": operators.replicas, "audit": operators.audit},
}
_KEYS: dict[str, Callable[..., None]] = {
    "create": keys.create,
    "ensure": keys.ensure,
    "list": keys.list_keys,
    "update": keys.update,
    "rotate": keys.rotate,
    "revoke": keys.revoke,
}
_FEEDBACK: dict[str, Callable[..., None]] = {"add": feedback.add, "list": feedback.list_feedback}
_JOBS: dict[str, Callable[..., None]] = {
    "list": jobs.list_jobs,
    "show": jobs.show_job,
    "follow": jobs.follow,
    "cancel": jobs.cancel,
    "pause": jobs.pause,
    "resume": jobs.resume,
}
_DATA: dict[str, Callable[..., None]] = {
    "check": data.check,
    "label": labelling.label,
    "list": data.list_files,
    "get": data.get,
    "delete": data.delete,
}
_POLICY: dict[str, Callable[..., None]] = {
    "show": policy.show_policy,
    "set": policy.set_policy,
    "check": policy.check_policy,
    "history": policy.policy_history,
}
_WEBHOOKS: dict[str, Callable[..., None]] = {
    "add": webhooks.add,
    "list": webhooks.list_webhooks,
    "remove": webhooks.remove,
    "enable": webhooks.enable,
    "disable": webhooks.disable,
    "rotate": webhooks.rotate,
    "test": webhooks.try_out,
    "deliveries": webhooks.deliveries,
    "retry": webhooks.retry,
    "drop": webhooks.drop,
}
_GOLDEN: dict[str, Callable[..., None]] = {"push": golden.push, "list": golden.list_sets}

app = typer.Typer(
    name="ostler",
    help="Serve many LoRA adapters of one base model, and swap their versions without a failed request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
feedback_app = typer.Typer(help="Say how good an answer was, and list what was said.", no_args_is_help=True)
golden_app = typer.Typer(help="Freeze and list golden sets: what a version must know.", no_args_is_help=True)
jobs_app = typer.Typer(help="Look at tuning jobs, follow them, and stop them.", no_args_is_help=True)
data_app = typer.Typer(
    help="Make and check data to train on, and look after the files that were sent.", no_args_is_help=True
)
policy_app = typer.Typer(help="Say what Ostler may do to adapters by itself, and try it.", no_args_is_help=True)
webhooks_app = typer.Typer(help="Have other systems told what the loop does.", no_args_is_help=True)
keys_app = typer.Typer(help="Make, change and revoke API keys.", no_args_is_help=True)
for panel, commands in _PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
for name, command in _KEYS.items():
    keys_app.command(name)(command)
for name, command in _FEEDBACK.items():
    feedback_app.command(name)(command)
for name, command in _GOLDEN.items():
    golden_app.command(name)(command)
for name, command in _POLICY.items():
    policy_app.command(name)(command)
for name, command in _WEBHOOKS.items():
    webhooks_app.command(name)(command)
for name, command in _JOBS.items():
    jobs_app.command(name)(command)
for name, command in _DATA.items():
    data_app.command(name)(command)
app.add_typer(jobs_app, name="jobs", rich_help_panel="Tuning")
app.add_typer(data_app, name="data", rich_help_panel="Tuning")
app.add_typer(feedback_app, name="feedback", rich_help_panel="Judging")
app.add_typer(golden_app, name="golden", rich_help_panel="Judging")
app.add_typer(policy_app, name="policy", rich_help_panel="Loop")
app.add_typer(webhooks_app, name="webhooks", rich_help_panel="Loop")
app.add_typer(keys_app, name="keys", rich_help_panel="Operators")


def _show_version(wanted: bool) -> None:
    if wanted:
        render.plain(f"ostler {version('ostler')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point: our own failures are one line, not a stack."""
    try:
        app()
    except CommandFailed as failed:
        render.error(str(failed))
        raise SystemExit(failed.exit_code) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None
