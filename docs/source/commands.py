"""The reference of commands, from the command line itself."""

from collections.abc import Iterable
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer

from docs.source import markdown
from ostler.cli import app

_INTRODUCTION = """\
`ostler COMMAND --help` says the same. Commands that talk to a gateway find it by `OSTLER_URL` and `OSTLER_API_KEY`; on
the machine that runs `ostler up` they find both by themselves. They print tables for people, and with `--json` the
API's answer for programs.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | refused or failed; the message says why |
| 2 | the command line, or a setting, is wrong |
| 3 | no gateway answers |
| 130 | stopped by Ctrl-C |"""
_WORDS = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
_EVERYWHERE = {"json", "url", "api_key", "help"}
_SHARED = """\
Commands that talk to a gateway take these, too:

| option | meaning |
| --- | --- |
| `--json` | Print the answer as JSON. |
| `--url TEXT` | The gateway's address (`OSTLER_URL`; `http://127.0.0.1:8080`). |
| `--api-key TEXT` | An admin key (`OSTLER_API_KEY`; the one that `ostler up` wrote on this machine). |"""


def page() -> str:
    """The page of all commands, by the panels of `ostler --help`."""
    root: Any = typer.main.get_command(app)
    panels = groupby(_by_panel(root), key=lambda command: command.rich_help_panel)
    sections = [f"## {panel}\n\n" + "\n\n".join(_pages_of(commands)) for panel, commands in panels]
    return markdown.page(
        "Commands",
        "Every command of `ostler`, with its arguments and options.",
        _INTRODUCTION,
        _SHARED,
        *sections,
    )


def _by_panel(root: Any) -> list[Any]:
    """The commands, those of a panel together, panels in the order in which they first come."""
    commands = list(root.commands.values())
    panels = list(dict.fromkeys(command.rich_help_panel for command in commands))
    return sorted(commands, key=lambda command: panels.index(command.rich_help_panel))


def _pages_of(commands: Iterable[Any]) -> list[str]:
    """Each command's part; a group's commands stand in its place."""
    found = []
    for command in commands:
        if hasattr(command, "commands"):
            found += [_command(f"{command.name} {name}", inner) for name, inner in command.commands.items()]
        else:
            found.append(_command(command.name, command))
    return found


def _command(name: str, command: Any) -> str:
    types = get_type_hints(command.callback)
    own = [one for one in command.params if one.name not in _EVERYWHERE]
    arguments = [(one, _metavar(one, types[one.name])) for one in own if one.param_type_name == "argument"]
    options = [(one, _metavar(one, types[one.name])) for one in own if one.param_type_name == "option"]
    usage = ["ostler", name, *(_usage(*one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    parts = [f"### ostler {name}", markdown.prose(command.help or ""), f"```\n{' '.join(usage)}\n```"]
    if arguments:
        rows = [(_code(metavar), _meaning(one)) for one, metavar in arguments]
        parts.append(markdown.table(("argument", "meaning"), rows))
    if options:
        rows = [(_option(*one), _meaning(one[0])) for one in options]
        parts.append(markdown.table(("option", "meaning"), rows))
    return "\n\n".join(parts)


def _usage(argument: Any, metavar: str) -> str:
    words = metavar + ("..." if argument.nargs == -1 else "")
    return words if argument.required else f"[{words}]"


def _metavar(parameter: Any, kind: Any) -> str:
    """What stands for its value: its own word, an argument's name, its choices, or its type."""
    if parameter.metavar or parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    while get_args(kind):  # of what may be left out, or said several times, the type of one
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return "|".join(kind) if issubclass(kind, StrEnum) else _WORDS.get(kind, "")


def _option(option: Any, metavar: str) -> str:
    names = markdown.listed(map(markdown.code, [*option.opts, *option.secondary_opts]))
    return names if option.is_flag else f"{names} {_code(metavar)}"


def _code(words: str) -> str:
    """As code; where one of several words may stand, those, since a bar would end a table's cell."""
    return " or ".join(map(markdown.code, words.split("|")))


def _meaning(parameter: Any) -> str:
    is_needed = parameter.required and parameter.param_type_name == "option"
    notes = [note for note in ("required" * is_needed, _default(parameter), _repeated(parameter)) if note]
    return (parameter.help or "").replace("|", "/") + (f" ({'; '.join(notes)})" if notes else "")


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return f"default: {parameter.show_default}"
    is_said = parameter.show_default and parameter.default not in (None, "", (), [], False)
    return f"default: {parameter.default}" if is_said else ""


def _repeated(parameter: Any) -> str:
    return "may be said several times" if parameter.multiple else ""
