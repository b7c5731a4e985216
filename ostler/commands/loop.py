"""Commands that stop the loop, let it go on, and answer what it asks."""

from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, segment
from ostler.options import Json, Key, Name, Url, show

Why = Annotated[str, typer.Option("--reason", "-m", help="Why; it stands in the audit log.")]
Decision = Annotated[
    int | None,
    typer.Option(min=1, help="The question that is meant, as `why` shows it.", show_default="the one that waits"),
]
_WANTED = {"retrain": "the training", "promote": "the promotion"}


def pause(name: Name, reason: Why = "", json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Have nothing change an adapter by itself, from now on."""
    show(_tell(name, "pause", reason, url, api_key), json, _standing)


def resume(name: Name, reason: Why = "", json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Let the loop go on with an adapter that is paused."""
    show(_tell(name, "resume", reason, url, api_key), json, _standing)


def approve(
    name: Name, reason: Why = "", decision: Decision = None, json: Json = False, url: Url = "", api_key: Key = ""
) -> None:
    """Say yes to the training or promotion of an adapter that waits for approval."""
    show(_tell(name, "approve", reason, url, api_key, decision), json, _answered)


def reject(
    name: Name, reason: Why = "", decision: Decision = None, json: Json = False, url: Url = "", api_key: Key = ""
) -> None:
    """Say no to the training or promotion that waits; a refused version is rolled back."""
    show(_tell(name, "reject", reason, url, api_key, decision), json, _answered)


def freeze(reason: Why = "", json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Have nothing change any adapter by itself, from now on. People may change everything still."""
    show(AdminClient(url, api_key).call("PUT", "/freeze", json={"reason": reason}), json, _frozen)


def unfreeze(reason: Why = "", json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Let the loop go on, but for adapters that are paused themselves."""
    show(AdminClient(url, api_key).call("DELETE", "/freeze", params={"reason": reason}), json, _frozen)


def _tell(name: str, what: str, reason: str, url: str, api_key: str, decision: int | None = None) -> Any:
    body = {"reason": reason} | ({} if decision is None else {"decision": decision})
    return AdminClient(url, api_key).call("POST", f"/adapters/{segment(name)}/{what}", json=body)


def _standing(answer: Any) -> None:
    name, paused, frozen = answer["adapter"], answer["paused"], answer["frozen"]
    if paused:
        _say(f"{name} is paused, {_by(paused)}.")
    elif frozen:
        _say(f"{name} is not paused, but all automatic change is frozen, {_by(frozen)}.")
    else:
        _say(f"{name} is not paused; its policy says what happens by itself.")


def _frozen(answer: Any) -> None:
    paused = ", ".join(answer["paused"])
    if answer["frozen"]:
        _say(f"All automatic change is frozen, {_by(answer['frozen'])}.")
    else:
        _say("Nothing is frozen; policies say what happens by itself." + (f" Paused stay: {paused}." if paused else ""))


def _answered(answer: Any) -> None:
    done = "approved of" if answer["answer"] == "approved" else "refused"
    what = f"{_WANTED[answer['wanted']]} of {answer['adapter']}"
    _say(f"{answer['actor']} {done} {what} (decision {answer['decision']}).")


def _by(stop: Any) -> str:
    return f"by {stop['actor']} at {render.when(stop['created_at'])}" + (
        f": {stop['reason']}" if stop["reason"] else ""
    )


def _say(line: str) -> None:
    render.out.print(render.words(line))
