"""Where everything stands in the plots of a report's page: coordinates in SVG's units, which the template draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from monitors.pages.scales import Scale, around, between


def interval(part: Mapping[str, Any], width: float) -> dict[str, Any] | None:
    """A part's interval against its threshold, and the line of no difference; None without any data.

    `good` is where the dot lies if the part passes: the interval goes with it, clear of the threshold.
    """
    if part["difference"] is None:
        return None
    same = 1.0 if part["unit"] == "times" else 0.0
    edge = _edge(part)
    values = [part["low"], part["high"], part["difference"], part["threshold"], edge, same]
    scale = around([value for value in values if value is not None], 8, width - 8)
    threshold = scale.at(part["threshold"])
    return {
        "low": scale.at(part["low"]) if part["low"] is not None else None,
        "high": scale.at(part["high"]) if part["high"] is not None else None,
        "dot": _placed(scale.at(part["difference"]), width),
        "threshold": _placed(threshold, width),
        "same": scale.at(same),
        "good": _good(part, None if edge is None else scale.at(edge), scale.at(part["difference"]), width),
    }


def histogram(counts: Sequence[int], width: float, height: float) -> dict[str, Any] | None:
    """Bars of how many rows lost or gained how much."""
    if not sum(counts):
        return None
    scale = Scale(0, max(counts), height, 0)
    each = width / len(counts)
    middle = len(counts) // 2
    bars = [
        {
            "x": round(number * each + 1, 2),
            "width": round(each - 2, 2),
            "y": scale.at(count),
            "height": round(height - scale.at(count), 2),
            "kind": "lost" if number < middle else "gained" if number > middle else "same",
            "count": count,
            "value": f"{2 * number / (len(counts) - 1) - 1:+.1f}",
        }
        for number, count in enumerate(counts)
        if count
    ]
    axis = Scale(0, len(counts) - 1, each / 2, width - each / 2)
    ticks = [
        {"at": axis.at((value + 1) / 2 * (len(counts) - 1)), "text": f"{value:+g}"} for value in (-1, -0.5, 0.5, 1)
    ]
    return {"bars": bars, "ticks": [*ticks, {"at": axis.at(middle), "text": "0"}], "rows": _counts(scale)}


def dumbbells(labels: Sequence[Mapping[str, Any]], width: float, each: float) -> dict[str, Any] | None:
    """For each label, where the reference stands and where the candidate does."""
    if not labels:
        return None
    scale = Scale(0, 1, 0, width)
    rows = [
        {
            **label,
            "y": each * number + each / 2,
            "from": scale.at(label["reference"]),
            "to": scale.at(label["candidate"]),
        }
        for number, label in enumerate(labels)
    ]
    return {"rows": rows, "height": each * len(labels), "ticks": scale.ticks()}


def curves(loss: Mapping[str, Sequence[Sequence[float]]], width: float, height: float) -> dict[str, Any] | None:
    """Training and validation loss over the steps."""
    points = [point for curve in loss.values() for point in curve]
    if not points:
        return None
    steps = between([point[0] for point in points], 0, width)
    losses = between([0.0, *(point[1] for point in points)], height, 0)
    drawn = {name: [(steps.at(step), losses.at(value)) for step, value in curve] for name, curve in loss.items()}
    return {"lines": drawn, "steps": steps.ticks(), "losses": losses.ticks()}


def _edge(part: Mapping[str, Any]) -> float | None:
    """Where the dot would be if the end of the interval that decides lay at the threshold; None without that end.

    A guardrail stops what is shown to lie beyond it, so there the other end decides.
    """
    decides = "low" if (part["wants"] == "above") != (part["rule"] == "guardrail") else "high"
    end = part[decides]
    return None if end is None else float(part["threshold"] + part["difference"] - end)


def _good(part: Mapping[str, Any], edge: float | None, dot: float, width: float) -> dict[str, float] | None:
    """From the edge on; all of it where nothing is shown, and nothing where no dot would pass."""
    start, end = (0.0, width) if edge is None else (edge, width) if part["wants"] == "above" else (0.0, edge)
    if not part["passed"] and start <= dot <= end:
        return None
    return {"x": start, "width": round(end - start, 2)}


def _placed(x: float, width: float) -> dict[str, Any]:
    """A place on the line, and how a text about it is aligned so that all of it is inside."""
    share = x / width
    anchor = "start" if share < 1 / 4 else "end" if share > 3 / 4 else "middle"
    return {"x": x, "anchor": anchor}


def _counts(scale: Scale) -> list[dict[str, Any]]:
    """Ticks of whole rows."""
    return [tick for tick in scale.ticks() if "." not in tick["text"]]
