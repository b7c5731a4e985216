"""The command that has a new version made: it sends the data, asks for a job, and may follow it."""

import json as json_format
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render, tuning
from ostler.client import AdminClient, CommandFailed
from ostler.commands.jobs import follow_to_the_end
from ostler.options import Json, Key, Name, Url

_FILE_ID = re.compile(r"file-[0-9a-z]+")
_NO_BASE = "none that this key may name; an adapter of its own goes on from a version with --from"
_STABLE = "stable"


class Method(StrEnum):
    """How a version is trained."""

    SUPERVISED = "supervised"
    DPO = "dpo"


class Quantization(StrEnum):
    """In what the base model is held meanwhile."""

    NONE = "none"
    NF4 = "nf4"
    INT8 = "int8"


def tune(
    name: Name,
    data: Annotated[str, typer.Option(metavar="FILE", help="JSON lines to train on, or the id of an uploaded file.")],
    validation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The same to validate with.", show_default="a share of the data"),
    ] = None,
    method: Annotated[Method, typer.Option(help="supervised: answers; dpo: preferred and other answers.")] = (
        Method.SUPERVISED
    ),
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="VERSION|stable",
            help="Go on from this version of the adapter.",
            show_default="a new LoRA on the base model",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base model's name.", show_default="the adapter's, or the only one")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.", show_default="auto")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows for a step.", show_default="auto")] = None,
    learning_rate_multiplier: Annotated[
        float | None, typer.Option(help="Factor on the rate that the rules give.", show_default="1")
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Of dpo: what leaving the reference costs.", show_default="auto")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA's rank.", show_default="auto")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's alpha.", show_default="auto")] = None,
    quantization: Annotated[
        Quantization | None, typer.Option(help="Of the base while it trains.", show_default="none")
    ] = None,
    replay: Annotated[
        float | None,
        typer.Option(min=0, help="Rows of an earlier version's data mixed in, as a share.", show_default="auto"),
    ] = None,
    gate_scorer: Annotated[
        list[str] | None,
        typer.Option(help="What the gate scores by; the first decides; may be said again.", show_default="auto"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all that is drawn.", show_default="drawn")] = None,
    note: Annotated[str, typer.Option("--note", "-m", help="A line about the version, 64 letters at most.")] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="More of the order, as gate.least_gain=0.02; may be said again."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show how it goes until it has ended; exit code 1 if it fails.")
    ] = False,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Have the tuner make a new version from data. It serves nobody until it has passed its gate and is promoted."""
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": learning_rate_multiplier,
        "beta": beta,
    }
    own: dict[str, Any] = {"adapter": name, "rank": rank, "alpha": alpha, "quantization": quantization}
    own = _said(own)
    for path, value in (("replay_share", replay), ("gate.scorers", _choices(gate_scorer))):
        if value is not None:
            _put(own, path, value)
    for each in setting or ():
        _put(own, *_setting(each))
    client = AdminClient(url, api_key)
    order = {
        "model": _model(client, name, start_from, base),
        "method": {"type": method.value, method.value: {"hyperparameters": _said(hyperparameters)}},
        "ostler": own,
        **_said({"seed": seed, "suffix": note or None}),
    }
    job = _send(client, order, data, validation)
    if follow:
        if not json:
            render.out.print(f"{job['id']} makes a version of {name}.")
        follow_to_the_end(client, job["id"], json=json)
    elif json:
        render.as_json(job)
    else:
        render.out.print(f"{job['id']} makes a version of {name}. Follow it: ostler jobs follow {job['id']}")


def _said(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _choices(scorers: list[str] | None) -> list[dict[str, str]] | None:
    return [{"scorer": each} for each in scorers] if scorers else None


def _setting(said: str) -> tuple[str, Any]:
    """The path and the value of a KEY=VALUE; values are JSON, and what is no JSON is a text."""
    path, equals, value = said.partition("=")
    if not equals or not all(path.split(".")):
        raise CommandFailed(f"--set {said!r} is not KEY=VALUE, as in --set gate.least_gain=0.02", 2)
    if path.split(".", maxsplit=1)[0] == "adapter":
        raise CommandFailed(f"--set {said!r}: the adapter is the first argument: ostler tune NAME", 2)
    try:
        return path, json_format.loads(value)
    except ValueError:
        return path, value


def _put(order: dict[str, Any], path: str, value: Any) -> None:
    """Set a value in nested objects."""
    *above, last = path.split(".")
    for each in above:
        order = order.setdefault(each, {})
        if not isinstance(order, dict):
            raise CommandFailed(f"{path!r}: {each!r} has no parts", 2)
    order[last] = value


def _model(client: AdminClient, name: str, start_from: str | None, base: str | None) -> str:
    """What is trained, as the tuning API calls it: the base model, the adapter as it serves, or one of its versions."""
    if start_from == _STABLE:
        return name
    if start_from is not None:
        if not (start_from.isascii() and start_from.isdecimal() and int(start_from) > 0):
            raise CommandFailed(f"--from {start_from!r} is neither a version's number nor stable", 2)
        return f"{name}@{start_from}"
    return base or _base_of(client, name)


def _base_of(client: AdminClient, name: str) -> str:
    """The base model of an adapter that serves; of another, the only one that the key may name."""
    models = client.call("GET", f"{client.url}/v1/models")["data"]
    of_adapter = {model["parent"] for model in models if model["id"].partition("@")[0] == name} - {None}
    bases = of_adapter or {model["id"] for model in models if model["parent"] is None}
    if len(bases) != 1:
        raise CommandFailed(f"say the --base of {name}, one of: {', '.join(sorted(bases)) or _NO_BASE}", 2)
    return str(bases.pop())


def _send(client: AdminClient, order: dict[str, Any], data: str, validation: str | None) -> Any:
    """Send the files and ask for the job; files of a job that is refused are deleted again."""
    sent: list[str] = []

    def file_id(said: str) -> str:
        if _FILE_ID.fullmatch(said) and not Path(said).exists():
            return said
        sent.append(tuning.upload(client, Path(said)))
        return sent[-1]

    try:
        order = {**order, "training_file": file_id(data)}
        if validation is not None:
            order["validation_file"] = file_id(validation)
        return tuning.create(client, order)
    except CommandFailed:
        for each in sent:
            _forget(client, each)
        raise


def _forget(client: AdminClient, file_id: str) -> None:
    """What cannot be deleted stays: the refusal that led here is what is told."""
    try:
        tuning.delete_file(client, file_id)
    except CommandFailed:
        return
