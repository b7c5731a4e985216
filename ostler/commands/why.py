"""The command that explains what the loop does with an adapter, on one screen."""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from ostler import render
from ostler.client import AdminClient, segment
from ostler.options import Json, Key, Name, Url, show
from ostler.policies import MODES

_PHASES = {
    "watching": "watches version {stable}",
    "tuning": "waits for the tuning job {job}",
    "rolling_out": "rolls version {version} out",
    "holding_back": "holds sessions back from version {version}",
}
_STOPS = {"pause": "paused", "freeze": "everything is frozen"}
_WANTED = {"retrain": "a training", "promote": "the promotion"}
_ASKS = ("asked", "not_approved")
_HEADINGS = len("changes it")
_COMMAND = "command"
"""The heading of what is not a row, but a line of its own, which can be copied whole."""
_LONG_COMMAND = re.compile(r":? `(ostler [^`]{28,})`[.]? ?")
"""What a row would break in two."""
_UNUSED = {
    "without_prompt": "without prompt",
    "unusable": "no text",
    "contradicted": "contradicted",
    "repeated": "repeated",
}
_GUARDS = {"errors": "failed", "latency": "slower than allowed", "cost": "dearer than allowed"}


def why(name: Name, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Explain what the loop does with an adapter: what it saw, the rule, what it did, and what would change that."""
    show(AdminClient(url, api_key).call("GET", f"/adapters/{segment(name)}/why"), json, _screen)


def _screen(answer: Any) -> None:
    render.out.print(Text.assemble((render.words(answer["adapter"]).plain, "bold"), f": Ostler {_standing(answer)}."))
    for is_command, lines in groupby(_lines(answer), lambda line: line[0] == _COMMAND):
        if is_command:
            for _, command in lines:
                render.out.print(Text("  ") + render.words(command), soft_wrap=True)
        else:
            _print(lines)
    rows = [(render.when(each["created_at"])[:16], _did(each), each["reason"]) for each in answer["done"]]
    render.table(("WHEN", "DONE", "WHY"), rows, "Nothing was done by itself so far.", folds=False)


def _print(lines: Iterable[tuple[str, str]]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold", min_width=_HEADINGS)
    grid.add_column(overflow="fold")
    for heading, line in lines:
        grid.add_row(heading, render.words(line))
    render.out.print(grid)


def _standing(answer: Any) -> str:
    rollout = answer["rollout"] or {}
    names = {"stable": answer["stable"], "job": answer["job"], "version": rollout.get("version")}
    doing = _PHASES[answer["phase"]].format(**names) if answer["stable"] else "has nothing to watch"
    since = f" since {render.when(answer['since'])[:16]}" if answer["since"] else ""
    return f"{MODES[answer['policy']['mode']]}; it {doing}{since}"


def _lines(answer: Any) -> Iterator[tuple[str, str]]:
    yield from _stopped(answer)
    yield from _decided(answer)
    yield from _seen(answer)
    yield from _rules(answer["policy"])


def _stopped(answer: Any) -> Iterator[tuple[str, str]]:
    name = answer["adapter"]
    for stop in answer["stopped"]:
        said = f": {stop['reason']}" if stop["reason"] else ""
        yield "stopped", f"{_STOPS[stop['by']]} by {stop['actor']} at {render.when(stop['created_at'])}{said}"
    if asked := answer["waits_for"]:
        yield "asked", f"for {_WANTED[asked['wanted']]}, since {render.when(asked['asked_at'])}; approve, or reject:"
        yield _COMMAND, f"ostler approve {name} --decision {asked['decision']}"
    if pending := answer["under_way"]:
        trouble = f"; refused {pending['tries']} times: {pending['trouble']}" if pending["trouble"] else ""
        act = pending["act"].replace("_", " ")
        yield "under way", f"decision {pending['decision']} ({act}) of {render.when(pending['decided_at'])}{trouble}"


def _decided(answer: Any) -> Iterator[tuple[str, str]]:
    said, name = answer["verdict"], answer["adapter"]
    if said is not None:
        yield "now", said["reason"]
    if waits := answer["waits"]:
        act = "" if waits["act"] == "wait" else f"{waits['act'].replace('_', ' ')}. "
        yield "waits", f"{act}{waits['reason']}"
    yield "looked", _looked(answer)
    asks = answer["waits_for"] is not None and (said or {}).get("outcome") in _ASKS
    if (change := (said or {}).get("would_change")) and not asks:
        yield from _with_commands("changes it", change.replace(" NAME", f" {name}"))


def _looked(answer: Any) -> str:
    """How old it is what is shown, and whether anybody looks: a quiet adapter and a dead monitor are told apart."""
    monitor = "a monitor is active" if answer["monitored"] else "no monitor is active: start `ostler monitor`"
    at = ((answer["waits"] or answer["verdict"]) or {}).get("decided_at")
    if at is None:
        never = "the policy's mode is off" if answer["policy"]["mode"] == "off" else "the loop has not looked at it yet"
        return f"{never}; {monitor}"
    return f"{_age(at)} ago ({render.when(at)[:16]}); {monitor}"


def _age(moment: str) -> str:
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _with_commands(heading: str, line: str) -> Iterator[tuple[str, str]]:
    """The line, with long commands on lines of their own, where they can be copied whole."""
    *before, last = _LONG_COMMAND.split(line)
    for words, command in zip(before[::2], before[1::2], strict=True):
        yield heading, f"{words}:"
        yield _COMMAND, command
        heading = ""
    if last:
        yield heading, last


def _seen(answer: Any) -> Iterator[tuple[str, str]]:
    if quality := answer["quality"]:
        yield "quality", _quality(quality)
    if labels := answer["labels"]:
        yield "labels", _labels(labels)
    yield from _conditions(answer)
    if rollout := answer["rollout"]:
        yield from _rollout(rollout, answer["policy"]["rollout"], answer["phase"])


def _conditions(answer: Any) -> Iterator[tuple[str, str]]:
    """What a training waits for, but for what stands above already; what is met in one line."""
    above = " ".join((said or {}).get("reason", "") for said in (answer["verdict"], answer["waits"]))
    for name, said in answer["conditions"].items():
        if name not in answer["met"] and said not in above:
            yield "", f"{_plain(name)}: {said}"
    if answer["met"]:
        yield "", f"met: {', '.join(map(_plain, answer['met']))}"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _quality(quality: Any) -> str:
    """The newest sessions beside what is expected, the interval, and how near an alarm is."""
    interval = f"{quality['low']:.3f} to {quality['high']:.3f} over {quality['observations']} sessions"
    if quality["level"] is None:
        return f"{quality['scorer']}: {interval}; what is expected is not known yet"
    alarm = "ALARM" if quality["alarm"] else f"evidence of a fall {quality['ratio']:.0%} of an alarm"
    recent = f"{_number(quality['recent'])} of late, {quality['level']:.3f} expected"
    return f"{quality['scorer']}: {recent}; {interval}; {alarm}"


def _labels(labels: Any) -> str:
    kinds = ", ".join(f"{count} {source}" for source, count in labels["by_source"].items()) or "none"
    heaviest = f"; {labels['heaviest_share']:.0%} by {labels['heaviest_key']}" if labels["heaviest_key"] else ""
    left = f", of {labels['found']} found" if labels["found"] != labels["rows"] else ""
    unused = ", ".join(f"{labels[name]} {words}" for name, words in _UNUSED.items() if labels[name])
    return f"{labels['rows']} new ones ({kinds}){left}{heaviest}" + (f"; not used: {unused}" if unused else "")


def _rollout(rollout: Any, rule: Any, phase: str) -> Iterator[tuple[str, str]]:
    yield "rollout", _held_back(rollout) if phase == "holding_back" else _on_its_way(rollout, rule)
    found = rollout["comparison"] or {}
    for name, against in (("incumbent", f"version {rollout['incumbent']}"), ("base", "the base model")):
        if held := found.get(name):
            yield "", f"beside {against}: {_difference(held)}"
    for name, words in _GUARDS.items():
        if (held := found.get(name)) and held["n"]:
            mean = f"{held['mean']:.1%} ({held['low']:.1%} to {held['high']:.1%})"
            over = "OVER" if held["worse"] else f"over its limit {_share(held['evidence_worse'], held['needed_worse'])}"
            yield "", f"{words}: {mean} of {held['n']}; {over}"


def _on_its_way(rollout: Any, rule: Any) -> str:
    share = "" if rollout["weight"] is None else f" with {rollout['weight']:.0%} of the sessions"
    who = ", set by a person" if rollout["by_person"] else f", step {rollout['step']} of {len(rule['steps'])}"
    sessions = f"{rollout['sessions']} of {rule['least_sessions']} sessions at this step"
    return f"version {rollout['version']} beside {rollout['incumbent']}{share}{who}; {sessions}"


def _held_back(rollout: Any) -> str:
    since = render.when(rollout["step_began_at"])[:16]
    share = "some" if rollout["weight"] is None else f"{rollout['weight']:.0%}"
    return f"version {rollout['version']} serves since {since}; {share} of the sessions stay on {rollout['incumbent']}"


def _difference(held: Any) -> str:
    if not held["n"]:
        return "no session yet"
    worse = "WORSE" if held["worse"] else f"worse {_share(held['evidence_worse'], held['needed_worse'])}"
    good = "established" if held["not_worse"] else _share(held["evidence_not_worse"], held["needed"])
    interval = f"{held['low']:+.3f} to {held['high']:+.3f}"
    return f"{held['mean']:+.3f} ({interval}) over {held['n']} sessions; not worse {good}, {worse}"


def _share(evidence: float, needed: float) -> str:
    """How much of the evidence that is needed there is, both as logarithms."""
    return f"{max(0.0, math.log(max(evidence, 1.0)) / math.log(needed)):.0%}"


def _rules(policy: Any) -> Iterator[tuple[str, str]]:
    quality, retrain, rollout = policy["quality"], policy["retrain"], policy["rollout"]
    number = f"policy {policy['number']}" if policy["number"] else "the defaults"
    chance = f"an alarm by chance once in {quality['alarm_every']} sessions"
    yield "rule", f"{number}: a fall by {quality['drop']:g} matters, {chance}"
    yield "", _retrains(retrain)
    yield "", _rolls_out(rollout)
    yield "", _limits(rollout)


def _retrains(rule: Any) -> str:
    budget = "no budget" if rule["budget"] is None else f"{rule['budget']:g} a month"
    hours = "at any hour" if rule["hours"] is None else "from {} to {} h UTC".format(*rule["hours"])
    yes = ", approval" if rule["approval"] else ""
    return (
        f"retrains with {rule['least_rows']} labels, at most {rule['most_of_one_key']:.0%} of one key, "
        f"{rule['cool_down_h']:g} h apart, {hours}, {budget}{yes}"
    )


def _rolls_out(rule: Any) -> str:
    steps = ", ".join(f"{weight:.0%}" for weight in rule["steps"])
    asks = ", approval" if rule["approval"] else ""
    return (
        f"rolls out by {steps}, each {rule['least_sessions']} sessions and {rule['least_minutes']:g} min, within "
        f"{rule['longest_h']:g} h; {rule['holdback']:.0%} held back for {rule['holdback_h']:g} h{asks}"
    )


def _limits(rule: Any) -> str:
    limits = {
        "{:.3g}% more failed requests": None if rule["errors"] is None else 100 * rule["errors"],
        "{:g} times the time for a token": rule["latency_ratio"],
        "{:g} times the cost": rule["cost_ratio"],
    }
    looked_at = [words.format(limit) for words, limit in limits.items() if limit is not None]
    return f"goes back if worse, or over {', '.join(looked_at)}" if looked_at else "goes back if worse; no other limit"


def _did(each: Any) -> str:
    version = f" {each['version']}" if each["version"] else ""
    return f"{each['act'].replace('_', ' ')}{version}"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"
