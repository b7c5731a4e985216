"""Commands about policies: what Ostler may do to an adapter by itself."""

from typing import Annotated, Any

import typer

from ostler import policies
from ostler.client import AdminClient, CommandFailed, segment
from ostler.options import Json, Key, Name, Reason, Url, show

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Such as mode=act, rollout.steps=0.1,0.5 or retrain.budget=none."),
]


def show_policy(name: Name, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Show what Ostler may do to an adapter by itself: every setting, and what it means."""
    show(AdminClient(url, api_key).call("GET", _path(name)), json, policies.show)


def set_policy(
    name: Name, settings: Settings = None, reason: Reason = "", json: Json = False, url: Url = "", api_key: Key = ""
) -> None:
    """Change settings of an adapter's policy; what is not said stays."""
    change = policies.order(settings or [])
    if not change:
        raise CommandFailed("say what shall change, such as mode=act; `ostler policy show NAME` lists all settings", 2)
    answer = AdminClient(url, api_key).call("PATCH", _path(name), json=change | {"reason": reason})
    said = [setting.partition("=")[0] for setting in settings or []]
    show(answer, json, lambda answer: policies.show(answer, said))


def check_policy(
    name: Name,
    settings: Settings = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How many days back.")] = 7,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Say what an adapter's policy, or a changed one, would have done in the last days. Nothing is changed."""
    order = policies.order(settings or []) | {"days": days}
    show(AdminClient(url, api_key).call("POST", f"{_path(name)}/check", json=order), json, _replayed)


def policy_history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=999, help="How many.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="Go on from this one.", show_default="the newest")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the changes of an adapter's policy, newest first."""
    more = 0 if json else 1  # what the oldest one shown is held against
    params = {"limit": limit + more} | ({} if before is None else {"before": before})
    answer = AdminClient(url, api_key).call("GET", f"{_path(name)}/history", params=params)
    show(answer, json, lambda answer: policies.history(answer, limit))


def _path(name: str) -> str:
    return f"/adapters/{segment(name)}/policy"


def _replayed(answer: Any) -> None:
    from ostler.replays import replay  # only this command needs it

    replay(answer)
