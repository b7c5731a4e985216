"""A teacher: an OpenAI-compatible endpoint whose answers are to be learned from.

It is asked no faster than it may be, asked again where that may help, and never for more money than was allowed.

TeacherFailed     this prompt has no usable answer; others may have one
  TeacherAway     it did not answer, however often it was asked; later it may
TeacherStopped    no further prompt will be answered: the key, the model or the money does not do
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from monitors.teaching.allowance import Budget, Exhausted, Pacer
from registry.artifacts import canonical_json

MOST_ATTEMPTS = 6
_LONGEST_PAUSE_S = 600.0
_LONGEST_OWN_PAUSE_S = 60.0
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_HOPELESS = {
    401: "it refuses the API key",
    402: "it wants to be paid",
    403: "the API key may not",
    404: "no such model",
}
_LATER = frozenset({408, 409, 425, 429})
_NO_MONEY = "insufficient_quota"
_TOKENS_FOR_A_MESSAGE = 16
_PER_MILLION = 1_000_000


class TeacherFailed(Exception):
    """One prompt has no usable answer; the message has nothing of the prompt in it."""


class TeacherAway(TeacherFailed):
    """It did not answer, which says nothing about the prompt."""


class TeacherStopped(Exception):
    """Asking on would be in vain."""


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """Which teacher, and how it is asked.

    Attributes:
        url: its address, with or without ``/v1``.
        model: its name of the model.
        key: the API key; empty sends none.
        instructions: a system message for the teacher alone, which no row keeps.
        max_tokens: of an answer.
        temperature: None leaves it to the endpoint.
        concurrency: requests at once.
        requests_per_minute: None does not hold them back.
        price_in, price_out: of a million tokens, in any one currency.
        max_cost: what all requests together may cost; None is no limit.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    instructions: str = ""
    max_tokens: int = 1024
    temperature: float | None = None
    concurrency: int = 4
    requests_per_minute: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / _PER_MILLION


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said: an assistant's message, with what it took."""

    message: Mapping[str, Any]
    prompt_tokens: int
    completion_tokens: int


class Teacher:
    """Asks a teacher.

    Args:
        choice: which one.
        transport: in place of the network.
        pacer: in place of one that waits in real time.
    """

    def __init__(
        self, choice: TeacherChoice, transport: httpx.AsyncBaseTransport | None = None, pacer: Pacer | None = None
    ) -> None:
        self.choice = choice
        self.budget = Budget(choice.max_cost)
        self._pacer = pacer or Pacer(choice.requests_per_minute)
        self._limit_name = "max_tokens"
        headers = {"authorization": f"Bearer {choice.key}"} if choice.key else {}
        url = choice.url.rstrip("/").removesuffix("/v1")
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT, transport=transport)

    async def __aenter__(self) -> Self:
        """Use it in a block."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def answer(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> Answer:
        """The answer to a prompt; `fields` are further fields of the request, such as `tools`.

        Raises:
            TeacherFailed, TeacherStopped
        """
        asked = with_instructions(self.choice.instructions, messages)
        problem = ""
        for attempt in range(MOST_ATTEMPTS):
            await self._pacer.turn()
            response = await self._ask(asked, fields)
            if isinstance(response, Answer):
                return response
            problem = response.problem
            self._pause(attempt, response.after_s)
        raise TeacherAway(f"{problem}, {MOST_ATTEMPTS} times")

    def _pause(self, attempt: int, wanted: float | None) -> None:
        own = min(2.0**attempt, _LONGEST_OWN_PAUSE_S) * random.uniform(0.8, 1.2)
        self._pacer.pause(own if wanted is None else min(wanted, _LONGEST_PAUSE_S))

    async def _ask(self, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> "Answer | _Again":
        """One request; its answer, or why it may be asked again."""
        body = self._body(messages, fields)
        bound = self._bound(body)
        receipt, cost = await self._reserve(bound), bound  # what broke off may have been charged
        try:
            response = await self._http.post("/v1/chat/completions", json=body)
            if response.is_error:
                cost = 0.0
                return self._refused(response)
            found = _json_of(response)
            prompt_tokens, completion_tokens, cost = self._bill(found.get("usage"), bound)
            return Answer(usable_message(found), prompt_tokens, completion_tokens)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            cost = 0.0
            return _Again(f"there was no connection ({type(error).__name__})")
        except httpx.HTTPError as error:
            return _Again(f"it did not answer ({type(error).__name__})")
        finally:
            await self.budget.settle(receipt, cost)

    async def _reserve(self, bound: float) -> object:
        try:
            return await self.budget.reserve(bound)
        except Exhausted as exhausted:
            raise TeacherStopped(str(exhausted)) from None

    def _body(self, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
        own = {} if self.choice.temperature is None else {"temperature": self.choice.temperature}
        limit = {self._limit_name: self.choice.max_tokens}
        return {"model": self.choice.model, "messages": messages, **fields, **own, **limit}

    def _bound(self, body: Mapping[str, Any]) -> float:
        """What a request costs at most: a token has a byte at least, and a message few of its own around it."""
        said = len(canonical_json([body["messages"], body.get("tools")]))
        prompt_tokens = said + _TOKENS_FOR_A_MESSAGE * len(body["messages"])
        return self.choice.cost(prompt_tokens, self.choice.max_tokens)

    def _refused(self, response: httpx.Response) -> "_Again":
        """Why it may be asked again.

        Raises:
            TeacherFailed, TeacherStopped: it may not.
        """
        status, error = response.status_code, _error_of(response)
        if _NO_MONEY in (error.get("code"), error.get("type")):
            raise TeacherStopped("the teacher answered that the account's money is used up")
        if why := _HOPELESS.get(status):
            raise TeacherStopped(f"the teacher answered {status}: {why}")
        if status == 400 and self._limit_name == "max_tokens" and "max_completion_tokens" in str(error.get("message")):
            self._limit_name = "max_completion_tokens"  # OpenAI's newer models know the limit only by this name
            return _Again("it answered 400", 0.0)
        if status in _LATER or status >= 500:
            return _Again(f"it answered {status}", _retry_after(response))
        raise TeacherFailed(f"it answered {status}")

    def _bill(self, usage: Any, bound: float) -> tuple[int, int, float]:
        """Tokens and cost; an endpoint that counts no tokens is taken to have used all that it might."""
        prompt_tokens, completion_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if prompt_tokens is None or completion_tokens is None:
            return 0, 0, bound
        return prompt_tokens, completion_tokens, self.choice.cost(prompt_tokens, completion_tokens)


@dataclass(frozen=True, slots=True)
class _Again:
    """Why a request may be sent again, and after how many seconds if the endpoint says so."""

    problem: str
    after_s: float | None = None


def with_instructions(instructions: str, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with instructions before all others; in one system message, since many templates take only one."""
    if not instructions:
        return list(messages)
    first, *others = messages
    if first["role"] in ("system", "developer") and isinstance(first["content"], str):
        return [{**first, "content": f"{instructions}\n\n{first['content']}"}, *others]
    return [{"role": "system", "content": instructions}, *messages]


def usable_message(completion: Mapping[str, Any]) -> dict[str, Any]:
    """The assistant's message of a chat completion, as far as it is learned from.

    Raises:
        TeacherFailed: it is empty, refused or cut off.
    """
    try:
        choice = completion["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, calls = message.get("content"), message.get("tool_calls")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise TeacherFailed("its answer is no chat completion") from None
    if reason == "length":
        raise TeacherFailed("its answer was cut off at the most tokens that it may have")
    if reason == "content_filter" or message.get("refusal"):
        raise TeacherFailed("it refused to answer")
    if calls:
        return {"role": "assistant", "content": content or None, "tool_calls": calls}
    if not isinstance(content, str) or not content.strip():
        raise TeacherFailed("its answer is empty")
    return {"role": "assistant", "content": content}


def _json_of(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _error_of(response: httpx.Response) -> dict[str, Any]:
    error = _json_of(response).get("error")
    return error if isinstance(error, dict) else {}


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def _retry_after(response: httpx.Response) -> float | None:
    """The header's seconds, or its moment; None if it says nothing that can be read."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
