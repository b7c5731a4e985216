"""Places at the engines: never more than there are, none lost, in turns; and how often requests may be sent again."""

import asyncio
import contextlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeadlineExceeded, GatewayError, Overloaded
from gateway.limits.admission import Admission, RetryBudget
from monitors.metrics import Metrics

FAR = 3_600.0


class Crowd:
    """Requests that hold a place until they are told to go on, and what they saw.

    Attributes:
        running: the groups of those that hold a place now.
        served: the groups in the order in which they got one.
        most: the most that held one at once.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.running: list[str] = []
        self.served: list[str] = []
        self.most = 0
        self._go_on = asyncio.Semaphore(0)

    async def ask(self, group: str, deadline_s: float = FAR) -> float:
        """One request; the seconds that it waited."""
        waited = await self.admission.take(group, time.monotonic() + deadline_s)
        self.running.append(group)
        self.served.append(group)
        self.most = max(self.most, len(self.running))
        try:
            await self._go_on.acquire()
        finally:
            self.running.remove(group)
            self.admission.give_back()
        return waited

    def asks(self, group: str, count: int = 1) -> list[asyncio.Task[float]]:
        """So many requests at once."""
        return [asyncio.create_task(self.ask(group)) for _ in range(count)]

    def end(self, count: int = 1) -> None:
        """Let so many end."""
        for _ in range(count):
            self._go_on.release()


def crowd(places: int = 2, queue: int = 10, wait_s: float = FAR, metrics: Metrics | None = None) -> Crowd:
    """Requests before so many places."""
    return Crowd(Admission(metrics or Metrics(), places=places, queue=queue, wait_s=wait_s))


async def settle() -> None:
    """Let all that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def all_free(admission: Admission, places: int) -> bool:
    """Whether so many can get a place at once, and one more cannot."""
    with contextlib.ExitStack() as stack:
        for _ in range(places):
            if await admission.take("check", time.monotonic()) > 0:
                return False
            stack.callback(admission.give_back)
        with pytest.raises(GatewayError):
            await admission.take("check", time.monotonic())
    return admission.queued == 0


async def test_no_more_run_than_there_are_places() -> None:
    """The others wait, and are told how long they did; one's end lets the next begin."""
    seen = crowd(places=2)
    asked = seen.asks("a", 5)
    await settle()
    assert (len(seen.running), seen.admission.queued) == (2, 3)
    seen.end()
    await settle()
    assert (len(seen.running), seen.admission.queued) == (2, 2)
    seen.end(4)
    waits = await asyncio.gather(*asked)
    assert waits[:2] == [0.0, 0.0]
    assert min(waits[2:]) > 0.0
    assert seen.most == 2
    assert await all_free(seen.admission, 2)


@pytest.mark.parametrize("queue", [0, 3])
async def test_a_full_queue_refuses_at_once(queue: int) -> None:
    """With 503 and retry-after, however patient the request is; who waits already is not put off."""
    metrics = Metrics()
    seen = crowd(places=1, queue=queue, metrics=metrics)
    asked = seen.asks("a", 1 + queue)
    await settle()
    with pytest.raises(Overloaded) as refused:
        await seen.ask("b")
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert refused.value.retry_after_s
    assert metrics.registry.get_sample_value("ostler_rejected_total", {"reason": "queue_full"}) == 1
    seen.end(1 + queue)
    await asyncio.gather(*asked)
    assert await all_free(seen.admission, 1)


async def test_who_waits_too_long_is_refused() -> None:
    """After the setting's time with 503, and its place in the queue is free again."""
    metrics = Metrics()
    seen = crowd(places=1, queue=1, wait_s=0.01, metrics=metrics)
    first = seen.asks("a")
    await settle()
    for _ in range(2):
        with pytest.raises(Overloaded, match="too long"):
            await seen.ask("b")
    assert metrics.registry.get_sample_value("ostler_rejected_total", {"reason": "queue_timeout"}) == 2
    assert metrics.registry.get_sample_value("ostler_requests_queued") == 0
    seen.end()
    await asyncio.gather(*first)
    assert await all_free(seen.admission, 1)


@pytest.mark.parametrize("deadline_s", [0.02, 0.0, -1.0])
async def test_a_deadline_that_passes_in_the_queue_is_told(deadline_s: float) -> None:
    """With 504, also if it had passed before."""
    seen = crowd(places=1)
    first = seen.asks("a")
    await settle()
    with pytest.raises(DeadlineExceeded) as refused:
        await seen.ask("b", deadline_s)
    assert refused.value.status == 504
    seen.end()
    await asyncio.gather(*first)
    assert await all_free(seen.admission, 1)


async def test_adapters_take_turns() -> None:
    """A flood of one delays another by one turn, not by the flood."""
    seen = crowd(places=1, queue=100)
    asked = seen.asks("hot", 20)
    await settle()
    asked += seen.asks("cold", 2) + seen.asks("mild", 1)
    await settle()
    seen.end(len(asked))
    await asyncio.gather(*asked)
    assert seen.served[:7] == ["hot", "hot", "cold", "mild", "hot", "cold", "hot"]
    assert len(seen.served) == 23


async def test_within_an_adapter_the_first_is_first() -> None:
    """Each in the order in which it came."""
    admission = crowd(places=1).admission
    order: list[int] = []

    async def ask(number: int) -> None:
        await admission.take("a", time.monotonic() + FAR)
        order.append(number)
        await asyncio.sleep(0)
        admission.give_back()

    await asyncio.gather(*(ask(number) for number in range(8)))
    assert order == list(range(8))


async def test_who_has_to_wait_makes_pressure() -> None:
    """Once each; who gets a place at once, or is refused, makes none."""
    seen = crowd(places=1, queue=2)
    calls: list[int] = []
    seen.admission.on_pressure = lambda: calls.append(seen.admission.queued)
    asked = seen.asks("a")
    await settle()
    assert calls == []
    asked += seen.asks("a", 2)
    await settle()
    with pytest.raises(Overloaded):
        await seen.ask("a")
    assert calls == [1, 2]
    seen.end(3)
    await asyncio.gather(*asked)


async def test_one_that_leaves_as_its_turn_comes_hands_it_on() -> None:
    """Its place goes to the next, in whichever order the two things happen."""
    for ends_first in (True, False):
        seen = crowd(places=1)
        first, second, third = seen.asks("a", 3)
        await settle()
        steps = (seen.end, second.cancel)
        for step in steps if ends_first else reversed(steps):
            step()
        await first
        await settle()
        assert second.cancelled()
        assert seen.running == ["a"]
        seen.end()
        await third
        assert await all_free(seen.admission, 1)


async def test_one_that_is_handed_a_place_and_cancelled_hands_it_on() -> None:
    """In the very moment between the two: the future has its result, and the task has not yet run."""
    seen = crowd(places=1)
    first, second, third = seen.asks("a", 3)
    await settle()
    (turns,) = seen.admission._waiting.values()
    turns[0].add_done_callback(lambda _: second.cancel())
    seen.end()
    await first
    await settle()
    assert second.cancelled()
    assert seen.running == ["a"]
    seen.end()
    await third
    assert await all_free(seen.admission, 1)


@pytest.mark.parametrize("seed", range(8))
async def test_storms_of_cancellations_lose_no_place(seed: int) -> None:
    """Requests that come, end, leave and run out of time in any order: never too many, and all is free at the end."""
    chance = random.Random(seed)
    places, queue = chance.randint(1, 4), chance.randint(1, 12)
    seen = crowd(places, queue, wait_s=0.005)
    tasks: list[asyncio.Task[float]] = []
    for _ in range(600):
        match chance.randrange(5):
            case 0 | 1:
                deadline_s = chance.choice([FAR, 0.002, -1.0])
                tasks.append(asyncio.create_task(seen.ask(chance.choice("abc"), deadline_s)))
            case 2 if seen.running:
                seen.end()
            case 3 if tasks:
                chance.choice(tasks).cancel()
            case _:
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
        assert len(seen.running) <= places
        assert 0 <= seen.admission.queued <= queue
    seen.end(len(tasks))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, float | asyncio.CancelledError | Overloaded | DeadlineExceeded) for one in outcomes)
    assert (seen.most, seen.running) == (places, [])
    assert not seen.admission._waiting
    assert await all_free(seen.admission, places)


def test_retries_come_out_of_a_reserve_and_then_a_share() -> None:
    """A burst may use the reserve; from then on a fifth of the requests may be sent again."""
    budget = RetryBudget(0.2, reserve=10)
    assert sum(budget.spend() for _ in range(50)) == 10
    again = 0
    for _ in range(1_000):
        budget.earn()
        again += budget.spend()
    assert again == pytest.approx(200, abs=1)


def test_the_reserve_does_not_grow() -> None:
    """A long quiet time saves up no storm of retries."""
    budget = RetryBudget(0.5, reserve=5)
    for _ in range(1_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(50)) == 5


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_their_share_and_the_reserve(ratio: float, asks: list[bool]) -> None:
    """Whatever the order of requests and failures."""
    budget = RetryBudget(ratio, reserve=5)
    came = again = 0
    for failed in asks:
        if failed:
            again += budget.spend()
        else:
            came += 1
            budget.earn()
        assert again <= 5 + ratio * came + 1e-6
