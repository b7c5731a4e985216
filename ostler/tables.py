"""The admin API's answers as people read them."""

from typing import Any

from rich.text import Text

from ostler.render import out, size, table, when

_COUNTED = (
    ("requests_per_minute", "requests/min"),
    ("tokens_per_minute", "tokens/min"),
    ("concurrent_requests", "at once"),
)
_DETAILS = {
    "restores": "restores revision {}",
    "old_secret_valid_until": "the replaced secret works until {}",
    "forced": "forced past its gate: version {}",
}
_MEASURED = """\
DISTANCE   the largest difference from the log probabilities stored with it
ALLOWED    how large that may be
FROM BASE  the largest difference from the base model's log probabilities"""
_COLUMNS_OF_REPLICAS = """\
RUNNING, WAITING  requests in the engine, whoever sent them
KV                how much of its cache is in use"""
_DIGEST_SHOWN = 12
_AGAINST = {"probes": "its {} stored probes, and the base model", "base": "the base model, with {} prompts"}


def percent(share: float) -> str:
    """A share as people say it."""
    return f"{100 * share:.4g}%"


def besides(deployment: Any) -> str:
    """What a deployment does beside its stable version, in words; empty if nothing."""
    parts = []
    if canary := deployment["canary"]:
        parts.append(_canary(canary))
    if shadow := deployment["shadow"]:
        target = "base model" if shadow["version"] == "base" else f"version {shadow['version']}"
        parts.append(f"shadow {target} for {percent(shadow['share'])} of requests")
    if fallback := deployment["fallback"]:
        parts.append("fallback " + (fallback if isinstance(fallback, str) else ", then ".join(fallback)))
    return "; ".join(parts)


def _canary(canary: Any) -> str:
    """A canary in words."""
    share = f"{percent(canary['weight'])} of sessions"
    if canary["holdback"]:
        return f"version {canary['version']} held back for {share}"
    return f"canary version {canary['version']} for {share}"


def changes(old: Any, new: Any) -> list[str]:
    """What has become of a deployment's canary, shadow and fallback, in words."""
    parts = ("canary", "shadow", "fallback")
    fates = {
        "gone": [part for part in parts if old[part] and not new[part]],
        "back": [part for part in parts if new[part] and not old[part]],
        "changed": [part for part in parts if old[part] and new[part] and old[part] != new[part]],
    }
    return [f"{_listed(which)} {'is' if len(which) == 1 else 'are'} {fate}" for fate, which in fates.items() if which]


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def adapters(answer: Any) -> None:
    """The list of adapters."""
    rows = []
    for adapter in answer["data"]:
        deployment = adapter["deployment"]
        live = next((v["engine_name"] for v in adapter["versions"] if v["state"] == "live"), None)
        canary = deployment and deployment["canary"]
        rows.append(
            (
                adapter["name"],
                live,
                f"{canary['version']} at {percent(canary['weight'])}" + _held(canary) if canary else None,
                len(adapter["versions"]),
                deployment and deployment["revision"],
                adapter["base"],
            )
        )
    headings = ("ADAPTER", "LIVE", "CANARY", "VERSIONS", "REVISION", "BASE")
    table(headings, rows, "No adapters yet: `ostler push DIR --adapter NAME`.")


def _held(canary: Any) -> str:
    return ", held back" if canary["holdback"] else ""


def adapter(answer: Any) -> None:
    """One adapter with its versions."""
    deployment = answer["deployment"]
    live = (
        f"serves version {deployment['stable']} since revision {deployment['revision']}"
        if deployment
        else "serves nothing yet"
    )
    out.print(Text.assemble((answer["name"], "bold"), f" on {answer['base']}: {live}"))
    if deployment and (more := besides(deployment)):
        out.print(f"with {more}")
    rows = [
        (
            v["number"],
            v["state"] + (", failing" if v["failing"] else "") + _at_gate(v["verdict"]),
            _lines(
                v["engine_name"],
                v["note"],
                f"rank {v['rank']}, {size(v['size_bytes'])}",
                f"{when(v['created_at'])} by {v['created_by']}",
            ),
        )
        for v in answer["versions"]
    ]
    table(("VERSION", "STATE", "NAME, NOTE, SIZE, PUSHED"), rows, "No versions.")
    if any(v["failing"] for v in answer["versions"]):
        out.print("What is failing gets no requests for a while; then it is tried again.")


def _at_gate(verdict: str | None) -> str:
    """What keeps a version from being promoted."""
    return {"candidate": ", at its gate", "rejected": ", rejected"}.get(verdict or "", "")


def history(answer: Any) -> None:
    """A deployment's revisions."""
    rows = [
        (
            r["revision"],
            r["action"] + (f" to {r['restores']}" if r["restores"] else ""),
            r["stable"],
            when(r["created_at"]),
            _lines(r["reason"], besides(r), _forced(r["forced"]), f"by {r['actor']}" + _followed(r["decision"])),
        )
        for r in answer["data"]
    ]
    table(("REVISION", "ACTION", "SERVES", "WHEN", "WHY, WITH WHAT, BY WHOM"), rows, "Nothing was promoted yet.")
    if answer["has_more"]:
        out.print("There is more: --limit shows it.")


def _followed(decision: int | None) -> str:
    """What an automatic change followed from."""
    return "" if decision is None else f", following decision {decision}"


def _forced(verdicts: Any) -> str | None:
    """Which versions were made to serve by force, and what their gates had said."""
    said = {
        "candidate": "was still at its gate",
        "rejected": "was rejected by its gate",
        "outdated": "was held against another version than served until then",
    }
    return (
        "; ".join(f"forced: version {number} {said[verdict]}" for number, verdict in (verdicts or {}).items()) or None
    )


def _lines(*parts: str | None) -> tuple[str, ...]:
    """What there is to say, each in a line of its own."""
    return tuple(part for part in parts if part)


def verdicts(answer: Any) -> None:
    """What the proof of a version found."""
    rows = [
        (
            v["replica"],
            "acts" if v["ok"] else "refused",
            _figure(v["distance"]),
            _figure(v["tolerance"]),
            _figure(v["difference"]),
            v["problem"] or _AGAINST[v["kind"]].format(v["prompts"]),
        )
        for v in answer["data"]
    ]
    headings = ("REPLICA", "VERDICT", "DISTANCE", "ALLOWED", "FROM BASE", "HELD AGAINST")
    table(headings, rows, "No engine could be asked.")
    if rows:
        out.print(_MEASURED)


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def replicas(answer: Any) -> None:
    """The engines."""
    rows = [
        (
            r["id"],
            r["state"],
            r["running"],
            r["waiting"],
            None if r["kv_cache_usage"] is None else percent(round(r["kv_cache_usage"], 3)),
            _lines(
                r["pool"],
                r["url"],
                f"{r['in_flight']} requests of this gateway",
                *r["resident"],
                *_troubles(r),
            ),
        )
        for r in answer["data"]
    ]
    headings = ("REPLICA", "STATE", "RUNNING", "WAITING", "KV", "BASE, REQUESTS, VERSIONS")
    table(headings, rows, "No engines.")
    if rows:
        out.print(_COLUMNS_OF_REPLICAS)


def _troubles(replica: Any) -> list[str]:
    found = [replica["problem"]] if replica["problem"] else []
    if replica["loading"]:
        found.append("loading " + ", ".join(replica["loading"]))
    if replica["breaker"] != "closed":
        found.append(f"breaker {replica['breaker'].replace('_', ' ')}")
    if replica["retry_in_s"] is not None:
        found.append(f"tried again in {replica['retry_in_s']:.0f} s")
    return found


def audit(answer: Any) -> None:
    """The audit log."""
    rows = [
        (
            e["id"],
            when(e["created_at"]),
            e["action"],
            _lines(e["subject"], _difference(e["before"], e["after"]), *_details(e["detail"]), f"by {e['actor']}"),
        )
        for e in answer["data"]
    ]
    table(("ID", "WHEN", "ACTION", "OF WHAT, WHAT CHANGED, WHY, BY WHOM"), rows, "Nothing was changed yet.")
    if answer["has_more"]:
        out.print(f"There is more: --before {answer['data'][-1]['id']} goes on.")


def _difference(before: Any, after: Any) -> str | None:
    """The fields that changed; where nothing was before, all that is there now."""
    old, new = before or {}, after or {}
    parts = []
    for field in {**old, **new}:
        if (old.get(field) or None) != (new.get(field) or None):
            was = f"{_value(field, old[field])} to " if old.get(field) is not None else ""
            parts.append(f"{field} {was}{_value(field, new.get(field))}")
    return "; ".join(parts) or None


def _details(detail: Any) -> list[str]:
    """What else is known of a change: the reason that its author gave, what a rollback restored, and such."""
    said = {name: value for name, value in (detail or {}).items() if value not in (None, "")}
    reason = [f"because: {said.pop('reason')}"] if "reason" in said else []
    return reason + [_DETAILS.get(name, name + " {}").format(_value(name, value)) for name, value in said.items()]


def _value(field: str, value: Any) -> str:
    if field == "digest":
        return str(value)[:_DIGEST_SHOWN]
    if isinstance(value, str) and field.endswith(("_at", "_until")):
        return when(value)
    if isinstance(value, dict):
        said = {name: one for name, one in value.items() if one is not None}
        if field == "shadow":
            said = {"version": "base", **said}
        return " ".join(f"{name} {_value(name, one)}" for name, one in said.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def keys(answer: Any) -> None:
    """The API keys."""
    rows = [
        (
            k["id"],
            k["hint"],
            _standing(k),
            _lines(
                k["name"],
                ", ".join(k["scopes"]),
                None if k["adapters"] is None else "only " + (", ".join(k["adapters"]) or "nothing"),
                ", ".join(f"{k['limits'][field]} {unit}" for field, unit in _COUNTED if k["limits"][field]),
                _money(k),
                k["previous_valid_until"] and f"the replaced secret works until {when(k['previous_valid_until'])}",
            ),
        )
        for k in answer["data"]
    ]
    table(("ID", "KEY", "STANDING", "NAME AND RIGHTS"), rows, "No keys.")


def _money(key: Any) -> str | None:
    """What was spent this month, and of how much."""
    spent, budget = key["spent_this_month"], key["limits"]["monthly_budget"]
    if budget:
        return f"spent {spent:.6g} of {budget:.12g} a month"
    return f"spent {spent:.6g} this month" if spent else None


def _standing(key: Any) -> str:
    if key["revoked_at"]:
        return f"revoked {when(key['revoked_at'])}"
    return f"until {when(key['expires_at'])}" if key["expires_at"] else "valid"
