"""How good a model's answers to tickets are, measured over HTTP against any OpenAI-compatible server."""

import json
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from urllib.error import HTTPError

from demo.tickets import FIELDS, Ticket, score

__all__ = ["Scores", "ask", "field_accuracy"]

# Twice the longest right answer, so that an answer is cut only when it has gone astray.
MAX_TOKENS = 48

# A proxy from the environment has no business between us and a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Scores:
    """Means over tickets, all in [0, 1], and the answers in the order of the tickets."""

    model: str
    fields: float  # the share of right fields: field accuracy
    exact: float  # answers equal to the label, to the byte
    valid: float  # answers that are a JSON object
    by_field: dict[str, float]
    answers: tuple[str, ...]


def field_accuracy(
    base_url: str,
    model: str,
    tickets: Sequence[Ticket],
    api_key: str | None = None,
    at_once: int = 16,
    on_answer: Callable[[], None] = lambda: None,
) -> Scores:
    """Ask `model` at `base_url` (such as http://127.0.0.1:8000, without /v1) about each ticket and score it.

    Blocks; at most `at_once` requests are in flight. `on_answer` is called after each. Raises RuntimeError with the
    server's words when it refuses a request, ValueError without tickets.
    """
    if not tickets:
        raise ValueError("no tickets to ask about")

    def answer(ticket: Ticket) -> str:
        text = ask(base_url, model, ticket.message, api_key)
        on_answer()
        return text

    with ThreadPoolExecutor(at_once) as pool:
        answers = tuple(pool.map(answer, tickets))
    return _summarize(model, tickets, answers)


def ask(base_url: str, model: str, message: str, api_key: str | None = None) -> str:
    """The answer to one user message, at temperature 0. Raises RuntimeError when the server refuses."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": message}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    headers = {"content-type": "application/json"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    url = f"{base_url}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the caller's own address
    try:
        with _OPENER.open(request, timeout=120) as response:
            reply = json.load(response)
    except HTTPError as error:
        raise RuntimeError(f"{model}: HTTP {error.code}: {error.read().decode(errors='replace')}") from error
    return str(reply["choices"][0]["message"]["content"] or "")


def _summarize(model: str, tickets: Sequence[Ticket], answers: tuple[str, ...]) -> Scores:
    scores = [score(answer, ticket) for answer, ticket in zip(answers, tickets, strict=True)]
    return Scores(
        model=model,
        fields=fmean(each.fields for each in scores),
        exact=fmean(each.exact for each in scores),
        valid=fmean(each.valid for each in scores),
        by_field={name: fmean(each.correct[name] for each in scores) for name in FIELDS},
        answers=answers,
    )
