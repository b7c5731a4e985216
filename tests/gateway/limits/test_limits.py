"""Limits per API key, counted in this process."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BudgetExceeded, RateLimited
from gateway.limits.budgets import Budgets
from gateway.limits.counts import Limit, Ticket
from gateway.limits.limiter import Grant, Limiter, duration
from gateway.limits.memory import MemoryCounts
from registry.catalog import ApiKey, KeyLimits, Scope


def key_with(**limits: float) -> ApiKey:
    """A key with these limits."""
    return ApiKey(
        id="key-1",
        name="team",
        hint="abcd",
        scopes=frozenset({Scope.INFERENCE}),
        adapters=None,
        limits=KeyLimits(**limits),  # type: ignore[arg-type]
        created_by="test",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def nothing_spent() -> Mapping[str, float]:
    """A database without spending."""
    return {}


def limiter(budgets: Budgets | None = None) -> Limiter:
    """A limiter that counts in memory."""
    return Limiter("", budgets or Budgets(nothing_spent))


async def admit(to: Limiter, key: ApiKey) -> Grant:
    """One request."""
    return await to.admit(key, "req-1", 60.0)


async def refused(to: Limiter, key: ApiKey) -> RateLimited:
    """One request that is refused; with what."""
    with pytest.raises(RateLimited) as caught:
        await admit(to, key)
    return caught.value


def told(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers as text."""
    return {name.decode(): value.decode() for name, value in headers}


async def test_a_key_without_limits_never_asks_the_storage() -> None:
    """It gets the same empty grant each time, even while there is no Redis."""
    lost: list[int] = []
    without = Limiter("redis://127.0.0.1:1", Budgets(nothing_spent), lambda: lost.append(1))
    grant = await admit(without, key_with(monthly_budget=1.0))
    grant.release(5)
    assert grant is await admit(without, key_with())
    assert grant.headers() == []
    assert lost == []
    await without.close()


async def test_the_headers_say_how_the_limits_stand() -> None:
    """They have OpenAI's names and forms, and count down with each request."""
    own, key = limiter(), key_with(requests_per_minute=5, tokens_per_minute=100)
    for remaining in (4, 3, 2):
        grant = await admit(own, key)
        headers = told(grant.headers())
        assert headers["x-ratelimit-limit-requests"] == "5"
        assert headers["x-ratelimit-remaining-requests"] == str(remaining)
        grant.release(10)
    headers = told((await admit(own, key)).headers())
    assert headers["x-ratelimit-limit-tokens"] == "100"
    assert headers["x-ratelimit-remaining-tokens"] == "70"
    # The window is a minute long, and has just begun.
    assert headers["x-ratelimit-reset-requests"].startswith(("59.", "1m0s"))
    assert headers["x-ratelimit-reset-tokens"].startswith(("59.", "1m0s"))
    assert len(headers) == 6


async def test_only_the_limits_that_a_key_has_are_told() -> None:
    """A key with a limit of tokens alone gets the headers of tokens; with nothing used there is nothing to reset."""
    headers = told((await admit(limiter(), key_with(tokens_per_minute=7))).headers())
    assert headers == {
        "x-ratelimit-limit-tokens": "7",
        "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "0s",
    }


async def test_requests_over_the_limit_are_refused() -> None:
    """The refusal says which limit, its value and when to try again, in words and in headers."""
    own, key = limiter(), key_with(requests_per_minute=2)
    await admit(own, key)
    await admit(own, key)
    error = await refused(own, key)
    assert (error.status, error.type, error.code, error.retry) == (429, "requests", "rate_limit_exceeded", True)
    assert "requests per minute: limit 2" in error.message
    assert error.retry_after_s == 60
    assert told(error.headers)["x-ratelimit-remaining-requests"] == "0"


async def test_tokens_count_after_the_answer() -> None:
    """A request is let in as long as tokens are left, and what it uses beyond the limit counts."""
    own, key = limiter(), key_with(tokens_per_minute=10)
    (await admit(own, key)).release(9)
    (await admit(own, key)).release(500)
    error = await refused(own, key)
    assert (error.type, told(error.headers)["x-ratelimit-remaining-tokens"]) == ("tokens", "0")
    assert "tokens per minute: limit 10" in error.message


async def test_a_request_refused_for_its_tokens_uses_no_other_limit() -> None:
    """Neither a request of the minute nor a place among those that run."""
    own, key = limiter(), key_with(tokens_per_minute=10, requests_per_minute=5, concurrent_requests=1)
    (await admit(own, key)).release(10)
    for _ in range(3):
        error = await refused(own, key)
        assert error.type == "tokens"
        assert told(error.headers)["x-ratelimit-remaining-requests"] == "4"


async def test_concurrent_requests_are_limited() -> None:
    """One more is refused until one has ended, and has used no request of the minute."""
    own, key = limiter(), key_with(concurrent_requests=2, requests_per_minute=3)
    first = await admit(own, key)
    await admit(own, key)
    error = await refused(own, key)
    assert "concurrent requests: limit 2" in error.message
    assert error.retry_after_s == 1
    assert told(error.headers)["x-ratelimit-remaining-requests"] == "1"
    first.release(None)
    assert told((await admit(own, key)).headers())["x-ratelimit-remaining-requests"] == "0"


async def test_a_request_refused_for_its_rate_takes_no_place() -> None:
    """After many such refusals the places are all free."""
    own, key = limiter(), key_with(concurrent_requests=1, requests_per_minute=1)
    (await admit(own, key)).release(None)
    for _ in range(3):
        assert "requests per minute" in (await refused(own, key)).message


async def test_a_grant_is_released_once() -> None:
    """Further calls free nobody else's place and count no tokens."""
    own, key = limiter(), key_with(concurrent_requests=2, tokens_per_minute=10)
    first, _ = await admit(own, key), await admit(own, key)
    for _ in range(5):
        first.release(1)
    assert told((await admit(own, key)).headers())["x-ratelimit-remaining-tokens"] == "9"
    assert "concurrent" in (await refused(own, key)).message


def test_keys_are_counted_apart() -> None:
    """What one key uses, another may still use."""
    counts, limits = MemoryCounts(), KeyLimits(requests_per_minute=1, concurrent_requests=1)
    assert counts.admit(Ticket("a", limits, "1", 60.0)).refused is None
    assert counts.admit(Ticket("a", limits, "2", 60.0)).refused is Limit.CONCURRENT
    assert counts.admit(Ticket("b", limits, "3", 60.0)).refused is None


@given(
    limit=st.integers(1, 6),
    pauses=st.lists(st.floats(0, 45, allow_nan=False), max_size=60),
)
def test_no_minute_ever_has_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    """A request is let in exactly if fewer than the limit were in the minute before, and the count left is right."""
    now = 1_000_000.0
    counts = MemoryCounts(lambda: now)
    admitted: list[float] = []
    for number, pause in enumerate(pauses):
        now += pause
        recent = [at for at in admitted if at > now - 60]
        ticket = Ticket("key", KeyLimits(requests_per_minute=limit), str(number), 60.0)
        standing = counts.admit(ticket)
        assert (standing.refused is None) == (len(recent) < limit)
        if standing.refused is None:
            admitted.append(now)
            recent.append(now)
        assert standing.requests is not None
        assert standing.requests.remaining == limit - len(recent)
        assert standing.requests.reset_s == pytest.approx(min(recent) + 60 - now, abs=1e-3)


def test_a_window_of_tokens_ends_after_a_minute() -> None:
    """The minute begins with the first tokens; after it the whole limit is there again."""
    now = 1_000_000.0
    counts, limits = MemoryCounts(lambda: now), KeyLimits(tokens_per_minute=10)
    ticket = Ticket("key", limits, "1", 60.0)
    counts.release(ticket, 8)
    now += 30
    counts.release(ticket, 8)
    standing = counts.admit(ticket)
    assert standing.refused is Limit.TOKENS
    assert standing.tokens is not None
    assert standing.tokens.reset_s == 30
    now += 30
    standing = counts.admit(ticket)
    assert (standing.refused, standing.tokens and standing.tokens.remaining) == (None, 10)


def test_no_request_waits_for_counts_in_memory() -> None:
    """Whether it is let in or refused: nothing is suspended."""
    own, key = limiter(), key_with(requests_per_minute=2, tokens_per_minute=9, concurrent_requests=1)
    for end in (StopIteration, RateLimited, RateLimited):
        with pytest.raises(end):
            own.admit(key, "req", 60.0).send(None)


def test_a_key_that_runs_is_not_forgotten() -> None:
    """However long it does; its place counts until it is given back."""
    now = 1_000_000.0
    counts, limits = MemoryCounts(lambda: now), KeyLimits(concurrent_requests=1)
    running = Ticket("key", limits, "1", 3600.0)
    counts.admit(running)
    for _ in range(5):
        now += 100
        assert counts.admit(Ticket("key", limits, "2", 60.0)).refused is Limit.CONCURRENT
    counts.release(running, 0)
    assert counts.admit(Ticket("key", limits, "3", 60.0)).refused is None


def test_a_changed_limit_counts_what_was_used_before() -> None:
    """A key whose limit is lowered or raised within a minute does not begin anew."""
    counts = MemoryCounts(lambda: 1_000_000.0)
    for number in range(3):
        ticket = Ticket("key", KeyLimits(requests_per_minute=5, tokens_per_minute=50), str(number), 60.0)
        counts.admit(ticket)
        counts.release(ticket, 10)
    lowered = Ticket("key", KeyLimits(requests_per_minute=2, tokens_per_minute=40), "lowered", 60.0)
    assert counts.admit(lowered).refused is Limit.REQUESTS
    raised = Ticket("key", KeyLimits(requests_per_minute=9, tokens_per_minute=90), "raised", 60.0)
    standing = counts.admit(raised)
    assert standing.requests is not None
    assert standing.tokens is not None
    assert (standing.requests.remaining, standing.tokens.remaining) == (5, 60)


def test_memory_forgets_keys_that_use_nothing() -> None:
    """A key that has not been seen for some minutes takes no memory."""
    now = 1_000_000.0
    counts, limits = MemoryCounts(lambda: now), KeyLimits(requests_per_minute=9, tokens_per_minute=9)
    for number in range(50):
        ticket = Ticket(f"key-{number}", limits, str(number), 60.0)
        counts.admit(ticket)
        counts.release(ticket, 1)
    now += 200
    counts.admit(Ticket("last", limits, "last", 60.0))
    assert len(counts._used) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.0001, "1ms"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.123, "59.123s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (86.4, "1m26.4s"),
        (3600, "1h0m0s"),
        (93784, "26h3m4s"),
    ],
)
def test_durations_have_openais_form(seconds: float, text: str) -> None:
    """Hours, minutes and seconds, or milliseconds; never shorter than the time meant."""
    assert duration(seconds) == text


async def test_a_spent_budget_is_refused_until_the_next_month() -> None:
    """The refusal says when it begins anew; OpenAI's SDK is not to try again."""
    now = datetime(2026, 12, 31, 23, 0, tzinfo=UTC).timestamp()
    budgets = Budgets(nothing_spent, lambda: now)
    own, key = limiter(budgets), key_with(monthly_budget=2.5, concurrent_requests=1)
    budgets.add(key.id, 2.0)
    (await admit(own, key)).release(1)
    budgets.add(key.id, 0.5)
    with pytest.raises(BudgetExceeded, match=r"budget of 2\.5 .*from 2027-01-01 00:00 UTC") as caught:
        await admit(own, key)
    error = caught.value
    assert (error.status, error.type, error.code, error.retry) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
        False,
    )
    assert error.retry_after_s == 3600
    now = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    await admit(own, key)
