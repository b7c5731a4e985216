"""What is wanted of the job at work."""

import asyncio

import pytest

from tuner.control import Control
from tuner.errors import Interrupted


def test_the_first_cause_stays() -> None:
    """A tuner that shuts down while a job is being paused has it paused."""
    control = Control()
    control.check()
    control.stop("pause")
    control.stop("shutdown")
    with pytest.raises(Interrupted) as interrupted:
        control.check()
    assert interrupted.value.cause == "pause"


@pytest.mark.parametrize(
    ("causes", "last"),
    [(("pause", "cancel"), "cancel"), (("shutdown", "lost"), "lost"), (("lost", "cancel"), "lost")],
)
async def test_a_cause_by_which_nothing_is_wanted_wins(causes: tuple[str, str], last: str) -> None:
    """There is nothing to save any more, and a lost job is nobody's to cancel."""
    control = Control()
    for cause in causes:
        control.stop(cause)  # type: ignore[arg-type]
    assert control.cause == last
    await asyncio.wait_for(control.wait_until_dropped(), 1)


async def test_work_is_cancelled_when_the_job_is_to_stop() -> None:
    """And its result is handed on otherwise."""
    control, ended = Control(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    assert await control.unless_stopped(asyncio.sleep(0, "done")) == "done"
    waiting = asyncio.create_task(control.unless_stopped(work()))
    await asyncio.sleep(0)
    control.stop("cancel")
    with pytest.raises(Interrupted):
        await waiting
    assert ended.is_set()


async def test_what_work_raises_comes_through() -> None:
    """As it was."""

    async def work() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await Control().unless_stopped(work())
