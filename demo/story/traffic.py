"""Customers' tickets through OpenAI's SDK, and what the support desk says of each answer a little later.

The desk closes a ticket some seconds after it was sorted, with the right labels, whether the answer was right or not:
a thumb, and the answer that should have been. A request that fails is noted, and never tried again.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import httpx
import openai

from demo.evaluate import MAX_TOKENS
from demo.shifted import shifted
from demo.story.ledger import Answered, Failure, Ledger, World
from demo.story.plan import ADAPTER, Plan
from demo.tickets import Ticket, held_out, score

__all__ = ["Traffic"]

_TIMEOUT_S = 60.0
_BATCH = 500
_SHORTEST_PAUSE_S = 0.001


class Traffic:
    """Sends tickets for as long as a `with` block lasts.

    Attributes:
        world: which kind of tickets come now.
        pace: how many a second.

    Args:
        url: the gateway's address.
        secrets: API keys by the names of the desk's channels.
        began: the story's beginning, by `time.monotonic`.
    """

    def __init__(self, url: str, secrets: Mapping[str, str], plan: Plan, ledger: Ledger, began: float) -> None:
        self.world: World = "before"
        self.pace = plan.pace
        self._plan = plan
        self._ledger = ledger
        self._began = began
        self._rng = random.Random(f"traffic {plan.seed}")
        self._clients = {name: _client(url, secret) for name, secret in secrets.items()}
        self._tickets: dict[World, Iterator[Ticket]] = {
            "before": _endless("before", plan.seed),
            "shifted": _endless("shifted", plan.seed),
        }
        self._places = asyncio.Semaphore(plan.at_once)
        self._sent = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to send."""
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no more; what is under way is waited for, and so is the desk's word on it."""
        assert self._sending is not None
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    @property
    def broken(self) -> BaseException | None:
        """What ended the sending, if anything did."""
        sending = self._sending
        return sending.exception() if sending is not None and sending.done() and not sending.cancelled() else None

    async def _send(self) -> None:
        while True:
            await self._places.acquire()
            task = asyncio.create_task(self._serve(next(self._tickets[self.world]), self.world))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(max(_SHORTEST_PAUSE_S, self._rng.expovariate(self.pace)))

    async def _serve(self, ticket: Ticket, world: World) -> None:
        """One ticket: asked about, then closed by the desk."""
        name = self._rng.choice(list(self._clients))
        self._sent += 1
        session = f"{name}-{self._sent:06d}"
        try:
            asked = await self._ask(ticket, world, name, session)
        finally:
            self._places.release()
        if asked is not None:
            await asyncio.sleep(self._rng.uniform(*self._plan.feedback_after_s))
            await self._say(ticket, name, *asked)

    async def _ask(self, ticket: Ticket, world: World, name: str, session: str) -> tuple[str, bool] | None:
        """Ask about a ticket; the request's id and whether the answer is right, or None if it failed."""
        began = time.monotonic()
        try:
            raw = await self._clients[name].chat.completions.with_raw_response.create(
                model=ADAPTER,
                messages=[{"role": "user", "content": ticket.message}],
                temperature=0,
                max_tokens=MAX_TOKENS,
                extra_headers={"x-session-id": session},
            )
            answer = raw.parse().choices[0].message.content or ""
            headers = raw.headers
            version, variant = int(headers["x-ostler-version"]), headers["x-ostler-variant"]
            request_id = headers["x-request-id"]
        except (openai.OpenAIError, LookupError, ValueError) as error:
            self._fail("answer", error)
            return None
        found = score(answer, ticket)
        now = time.monotonic()
        answered = Answered(now - self._began, world, name, version, variant, found.fields, now - began)
        self._ledger.answers.append(answered)
        return request_id, found.exact

    async def _say(self, ticket: Ticket, name: str, request_id: str, right: bool) -> None:
        body = {"request_id": request_id, "thumb": "up" if right else "down", "correction": ticket.answer}
        try:
            await self._clients[name].post("/feedback", body=body, cast_to=httpx.Response)
        except openai.OpenAIError as error:
            self._fail("feedback", error)
        else:
            self._ledger.said += 1

    def _fail(self, what: str, error: Exception) -> None:
        how = f"{type(error).__name__}: {error}"[:300]
        self._ledger.failures.append(Failure(time.monotonic() - self._began, what, how))


def _client(url: str, secret: str) -> openai.AsyncOpenAI:
    """A client that tries nothing twice, so that each failure shows."""
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key=secret,
        max_retries=0,
        timeout=_TIMEOUT_S,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


def _endless(world: World, seed: int) -> Iterator[Ticket]:
    write = held_out if world == "before" else shifted
    while True:
        seed += 1
        yield from write(_BATCH, seed)
