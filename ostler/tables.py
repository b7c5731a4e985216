"""The admin API's answers as people read them."""

from typing import Any

from rich.text import Text

from ostler.render import out, size, table, when

_COUNTED = (
    ("requests_per_minute", "requests/min"),
    ("tokens_per_minute", "tokens/min"),
    ("concurrent_requests", "at once"),
    ("monthly_budget", "a month"),
)
_AGAINST = {"probes": "its {} stored probes, and the base model", "base": "the base model, with {} prompts"}


def percent(share: float) -> str:
    """A share as people say it."""
    return f"{100 * share:.4g}%"


def besides(deployment: Any) -> str:
    """What a deployment does beside its stable version, in words; empty if nothing."""
    parts = []
    if canary := deployment["canary"]:
        parts.append(f"canary version {canary['version']} for {percent(canary['weight'])} of sessions")
    if shadow := deployment["shadow"]:
        target = "base model" if shadow["version"] == "base" else f"version {shadow['version']}"
        parts.append(f"shadow {target} for {percent(shadow['share'])} of requests")
    if fallback := deployment["fallback"]:
        parts.append("fallback " + (fallback if isinstance(fallback, str) else ", then ".join(fallback)))
    return "; ".join(parts)


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
                f"{canary['version']} at {percent(canary['weight'])}" if canary else None,
                len(adapter["versions"]),
                deployment and deployment["revision"],
                adapter["base"],
            )
        )
    headings = ("ADAPTER", "LIVE", "CANARY", "VERSIONS", "REVISION", "BASE")
    table(headings, rows, "No adapters yet: `ostler push DIR --adapter NAME`.")


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
            v["state"],
            v["rank"],
            size(v["size_bytes"]),
            when(v["created_at"]),
            _lines(v["engine_name"], v["note"], f"by {v['created_by']}"),
        )
        for v in answer["versions"]
    ]
    table(("VERSION", "STATE", "RANK", "SIZE", "PUSHED", "NAME"), rows, "No versions.")


def history(answer: Any) -> None:
    """A deployment's revisions."""
    rows = [
        (
            r["revision"],
            r["action"] + (f" to {r['restores']}" if r["restores"] else ""),
            r["stable"],
            when(r["created_at"]),
            _lines(r["reason"], besides(r), f"by {r['actor']}"),
        )
        for r in answer["data"]
    ]
    table(("REVISION", "ACTION", "SERVES", "WHEN", "WHY, WITH WHAT, BY WHOM"), rows, "Nothing was promoted yet.")
    if answer["has_more"]:
        out.print("There is more: --limit shows it.")


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
            _lines(f"{r['in_flight']} from here, for {r['pool']}", ", ".join(r["resident"]), *_troubles(r)),
        )
        for r in answer["data"]
    ]
    table(("REPLICA", "STATE", "RUNNING", "WAITING", "KV", "REQUESTS AND VERSIONS"), rows, "No engines.")


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
            _lines(e["subject"], _difference(e["before"], e["after"]), f"by {e['actor']}"),
        )
        for e in answer["data"]
    ]
    table(("ID", "WHEN", "ACTION", "OF WHAT, FROM WHAT, BY WHOM"), rows, "Nothing was changed yet.")
    if answer["has_more"]:
        out.print(f"There is more: --before {answer['data'][-1]['id']} goes on.")


def _difference(before: Any, after: Any) -> str | None:
    """The fields that changed; where nothing was before, all that is there now."""
    old, new = before or {}, after or {}
    parts = []
    for field in {**old, **new}:
        if old.get(field) != new.get(field):
            was = f"{_value(old[field])} to " if old.get(field) is not None else ""
            parts.append(f"{field} {was}{_value(new.get(field))}")
    return "; ".join(parts) or None


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_value(one)}" for name, one in value.items())
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
                ", ".join(f"{k['limits'][field]:.12g} {unit}" for field, unit in _COUNTED if k["limits"][field]),
            ),
        )
        for k in answer["data"]
    ]
    table(("ID", "KEY", "STANDING", "NAME AND RIGHTS"), rows, "No keys.")


def _standing(key: Any) -> str:
    if key["revoked_at"]:
        return f"revoked {when(key['revoked_at'])}"
    return f"until {when(key['expires_at'])}" if key["expires_at"] else "valid"
