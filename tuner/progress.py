"""What training tells, kept: steps as events and metrics, checkpoints in the store.

Training never waits for the database or the store: what it tells is written behind it, many events in one transaction.
While the database is away, thousands of messages wait for it; only a training that outruns these is held up. Of several
checkpoints that wait for a slow store only the newest and the best are worth their time; the others are listed without
content, and leave the disk.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from registry.tuning.claims import JobLost
from registry.tuning.events import NewCheckpoint, NewEvent
from tuner.errors import Interrupted
from tuner.messages import Evaluated, Message, Saved, Step, Told
from tuner.shop import AtWork

log = logging.getLogger(__name__)

_ESTIMATE_EVERY_S = 5.0
_GATHER_S = 0.2
_MOST_WAITING = 10_000
_OWNER = "job"
"""A file with the job's id and its tuner's name, so that no two have one artifact, which one of them would delete."""
_Item = tuple[Message, datetime]


class Progress:
    """Takes the messages of a training child, for as long as the block; at its end all of them are written.

    Args:
        tokens: that the job was trained on before this attempt, as far as its checkpoint goes.
        best_step: the best checkpoint before this attempt.
    """

    def __init__(self, work: AtWork, tokens: int = 0, best_step: int | None = None) -> None:
        self._work = work
        self._tokens = tokens
        self._best_step = best_step
        self._estimated_at = 0.0
        self._remaining_s: float | None = None
        self._waiting: asyncio.Queue[_Item] = asyncio.Queue(_MOST_WAITING)
        self._over = asyncio.Event()
        self._is_dropped = False
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Write what still waits, unless the work has come to nothing.

        Nothing is broken off in its middle: what is in the store has a row that names it, by which it is swept.
        """
        assert self._writer is not None
        self._is_dropped = kind is not None and (not isinstance(error, Exception) or _drops(error))
        self._over.set()
        if not self._is_dropped:
            await self._writer
        await asyncio.gather(self._writer, return_exceptions=True)

    async def take(self, message: Message) -> None:
        """Show a message in the metrics, and have it written.

        Raises:
            JobLost, Interrupted, StoreFailure: of a message before, which could not be written.
        """
        if isinstance(message, Step):
            self._show(message)
        elif isinstance(message, Evaluated):
            self._work.shop.metrics.validation_loss.labels(self._work.order.adapter).set(message.loss)
        await self._put((message, datetime.now(UTC)))

    async def _put(self, item: _Item) -> None:
        assert self._writer is not None
        if self._writer.done():
            self._writer.result()
        if not self._waiting.full():
            self._waiting.put_nowait(item)
            return
        putting = asyncio.create_task(self._waiting.put(item))
        await asyncio.wait((putting, self._writer), return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            self._writer.result()

    def _show(self, step: Step) -> None:
        metrics, adapter = self._work.shop.metrics, self._work.order.adapter
        gauges = {
            metrics.loss: step.loss,
            metrics.learning_rate: step.learning_rate,
            metrics.tokens_per_second: step.tokens_per_second,
            metrics.memory: step.memory_bytes,
            metrics.remaining: step.remaining_s,
            metrics.progress: step.step / step.total,
            metrics.gradient_norm: step.gradient_norm,
        }
        for gauge, value in gauges.items():
            if value is not None:
                gauge.labels(adapter).set(value)
        metrics.steps.inc()
        metrics.tokens.inc(max(0, step.tokens - self._tokens))
        self._tokens = step.tokens
        self._remaining_s = step.remaining_s

    async def _write(self) -> None:
        """Write what waits, a while's messages at a time, until the block is over."""
        is_over = False
        while not is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._over.wait()
            is_over = self._over.is_set()
            await self._keep([self._waiting.get_nowait() for _ in range(self._waiting.qsize())])
            await self._estimate()

    async def _keep(self, items: Sequence[_Item]) -> None:
        """Keep what was told, in its order."""
        worth_storing = await self._choose([message for message, _ in items if isinstance(message, Saved)])
        events: list[NewEvent] = []
        for message, at in items:
            if self._is_dropped:
                return
            if isinstance(message, Saved):
                await self._keep_events(events)
                await self._keep_checkpoint(message, is_stored=message.step in worth_storing)
                events = []
            elif (event := _event_of(message, at)) is not None:
                events.append(event)
        await self._keep_events(events)

    async def _choose(self, waiting: Sequence[Saved]) -> set[int]:
        """The steps of the newest and the best of some checkpoints; the others leave this machine."""
        if not waiting:
            return set()
        newest = waiting[-1].step
        best = next((each.step for each in reversed(waiting) if each.is_best), self._best_step)
        await asyncio.to_thread(self._work.workspace.drop_checkpoints, newest, best)
        return {step for step in (newest, best) if step is not None}

    async def _keep_events(self, events: Sequence[NewEvent]) -> None:
        if events:
            work = self._work
            await work.insist(lambda: work.shop.jobs.tell_all(work.job.id, work.worker, events))

    async def _keep_checkpoint(self, saved: Saved, *, is_stored: bool) -> None:
        """Put it where another machine finds it, and let go of those that nobody would go on from."""
        work = self._work
        metrics = {"step": float(saved.step), **saved.metrics}
        if not is_stored:
            await self._name(NewCheckpoint(saved.step, None, metrics))
            return
        digest = await asyncio.to_thread(self._store, saved)
        try:
            unneeded = await self._name(NewCheckpoint(saved.step, digest, metrics, saved.is_best))
        except (JobLost, Interrupted):
            await self._drop_unnamed(digest)
            raise
        work.job.checkpoint, work.job.attempt = digest, 1
        for each in unneeded:
            await asyncio.to_thread(work.shop.store.remove, each)
        self._best_step = saved.step if saved.is_best else self._best_step
        await asyncio.to_thread(work.workspace.drop_checkpoints, saved.step, self._best_step)

    async def _name(self, new: NewCheckpoint) -> list[str]:
        work = self._work
        return await work.insist(lambda: work.shop.jobs.keep_checkpoint(work.job.id, work.worker, new))

    async def _drop_unnamed(self, digest: str) -> None:
        """Remove what no checkpoint names: the answer to a write that did name it may have been lost."""
        work = self._work
        try:
            named = {each.digest for each in await work.shop.events.kept_checkpoints(work.job.id)}
            if digest not in named:
                await asyncio.to_thread(work.shop.store.remove, digest)
        except Exception as error:
            log.warning("the checkpoint %s stays in the store (%s)", digest[:12], type(error).__name__)

    def _store(self, saved: Saved) -> str:
        files: dict[str, bytes | Path] = {each.name: each for each in Path(saved.folder).iterdir() if each.is_file()}
        files[_OWNER] = f"{self._work.job.id} {self._work.worker}".encode()
        return self._work.shop.store.put_files(files).digest

    async def _estimate(self) -> None:
        if self._remaining_s is not None and time.monotonic() - self._estimated_at >= _ESTIMATE_EVERY_S:
            self._estimated_at = time.monotonic()
            await self._work.note(estimated_finish=datetime.now(UTC) + timedelta(seconds=self._remaining_s))


def _drops(error: Exception) -> bool:
    return isinstance(error, Interrupted) and error.cause in ("cancel", "lost")


def _event_of(message: Message, at: datetime) -> NewEvent | None:
    """What clients read of a message; None for those that are no event."""
    if isinstance(message, Told):
        return NewEvent(message.message, message.level, None, at)
    if isinstance(message, Step):
        said = f"Step {message.step}/{message.total}: training loss={message.loss:.4f}"
        return NewEvent(said, "info", _step_data(message), at)
    if isinstance(message, Evaluated):
        said = f"Step {message.step}: validation loss={message.loss:.4f}"
        return NewEvent(said, "info", _evaluation_data(message), at)
    return None


def _step_data(step: Step) -> dict[str, Any]:
    """By OpenAI's names where it has some."""
    told: dict[str, Any] = msgspec.to_builtins(step)
    del told["type"]
    data = {"train_loss": told.pop("loss"), "total_steps": told.pop("total"), **told.pop("extra"), **told}
    data["train_mean_token_accuracy"] = data.pop("token_accuracy")
    return data


def _evaluation_data(found: Evaluated) -> dict[str, Any]:
    return {
        "step": found.step,
        "full_valid_loss": found.loss,
        "full_valid_mean_token_accuracy": found.token_accuracy,
    }
