"""Asks a model every row of a golden set, at temperature 0, as any client of the gateway would.

A gateway that is busy or away is asked again after pauses. When the pauses are used up, or the engine refuses a row,
nothing is left of the run but the reason: half a set would be another set.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from monitors.judging.golden import GoldenRow, GoldenSet
from monitors.judging.likelihood import Likelihood, likelihood
from monitors.judging.results import Answered, asks_likelihood
from monitors.watch.client import GatewayClient, GatewayRefused, answer_text

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 120.0)
SAME_ANSWERS: Mapping[str, Any] = {"temperature": 0, "seed": 0}
_BUSY = frozenset({429})
T = TypeVar("T")


class RunFailed(Exception):
    """A run cannot be finished; the message says at which row and why, and holds nothing of what was said.

    Attributes:
        may_pass: whether another time may be better, though all pauses are used up.
    """

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks models through a gateway.

    Attributes:
        concurrency: how many rows are asked at once.
        pauses_s: how long it waits before each further attempt, where another time may be better, seconds.
        passing: the gateway's refusals that may pass, beside errors of its own (5xx) and no answer at all.
        answered: is called for each row of a set that was answered.
    """

    gateway: GatewayClient
    concurrency: int
    pauses_s: Sequence[float] = PAUSES_S
    passing: frozenset[int] = _BUSY
    answered: Callable[[], None] = lambda: None

    async def answers(self, model: str, golden: GoldenSet, *, likelihoods: bool = False) -> list[Answered]:
        """The model's answers in the set's order, with how likely it holds the references.

        Likelihoods are asked for where a row's scorers need them, or with `likelihoods` wherever there is a reference.

        Raises:
            RunFailed
        """

        async def ask(row: GoldenRow) -> Answered:
            found = await self._answer(model, row)
            wanted = likelihoods or asks_likelihood(row, golden)
            return Answered(found, await self._likelihood(model, row) if wanted else None)

        return await self._each(golden, ask)

    async def likelihoods(self, model: str, golden: GoldenSet) -> list[Likelihood | None]:
        """How likely the model holds each row's reference, without asking for answers.

        Raises:
            RunFailed
        """
        return await self._each(golden, lambda row: self._likelihood(model, row))

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again after a pause for as long as there are pauses, if another time may be better.

        Raises:
            GatewayRefused
        """
        for pause_s in self.pauses_s:
            try:
                return await ask()
            except GatewayRefused as refused:
                if not self.may_pass(refused):
                    raise
            await asyncio.sleep(pause_s)
        return await ask()

    def may_pass(self, refused: GatewayRefused) -> bool:
        """Whether another time may be better."""
        status = refused.status
        return status is None or status in self.passing or status >= 500

    async def _each(self, golden: GoldenSet, ask: Callable[[GoldenRow], Awaitable[T]]) -> list[T]:
        """What `ask` says of every row, in the set's order; a few are asked at once."""
        found: dict[int, T] = {}
        rows = enumerate(golden.rows)

        async def work() -> None:
            for index, row in rows:
                try:
                    found[index] = await ask(row)
                except GatewayRefused as refused:
                    raise RunFailed(f"row {index + 1}: {refused}", may_pass=self.may_pass(refused)) from None
                self.answered()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [found[index] for index in range(len(golden.rows))]

    async def _answer(self, model: str, row: GoldenRow) -> str:
        chat = self.gateway.chat
        completion = await self.patiently(lambda: chat(model, row.prompt, **SAME_ANSWERS, **row.options))
        return answer_text(completion) or ""

    async def _likelihood(self, model: str, row: GoldenRow) -> Likelihood | None:
        reference = row.reference
        if reference is None:
            return None
        return await self.patiently(lambda: likelihood(self.gateway, model, row.prompt, reference, **row.reading))
