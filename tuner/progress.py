"""What training tells, kept: steps as events and metrics, checkpoints in the store."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tuner.messages import Evaluated, Message, Saved, Step
from tuner.shop import AtWork

_ESTIMATE_EVERY_S = 5.0
_OWNER = "job"
"""A file with the job's id, so that no two jobs have one artifact, which one of them would delete."""


class Progress:
    """Takes the messages of a training child, for as long as the block."""

    def __init__(self, work: AtWork) -> None:
        self._work = work
        self._estimated_at = 0.0
        self._tokens = 0

    async def __aenter__(self) -> Self:
        """Show that the adapter is at work."""
        self._work.shop.metrics.at_work.labels(self._work.order.adapter).set(1)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Show nothing of it any more."""
        self._work.shop.metrics.forget(self._work.order.adapter)

    async def take(self, message: Message) -> None:
        """Keep one message."""
        if isinstance(message, Step):
            await self._take_step(message)
        elif isinstance(message, Evaluated):
            await self._take_evaluation(message)
        elif isinstance(message, Saved):
            await self._take_checkpoint(message)

    async def _take_step(self, step: Step) -> None:
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
        metrics.tokens.inc(max(0, step.tokens - self._tokens) if self._tokens else 0)
        self._tokens = step.tokens
        told: dict[str, Any] = msgspec.to_builtins(step)
        del told["type"]
        data = {"train_loss": told.pop("loss"), "total_steps": told.pop("total"), **told.pop("extra"), **told}
        data["train_mean_token_accuracy"] = data.pop("token_accuracy")
        await self._tell(f"Step {step.step}/{step.total}: training loss={step.loss:.4f}", data)
        await self._estimate(step.remaining_s)

    async def _take_evaluation(self, found: Evaluated) -> None:
        self._work.shop.metrics.validation_loss.labels(self._work.order.adapter).set(found.loss)
        data = {
            "step": found.step,
            "full_valid_loss": found.loss,
            "full_valid_mean_token_accuracy": found.token_accuracy,
        }
        await self._tell(f"Step {found.step}: validation loss={found.loss:.4f}", data)

    async def _take_checkpoint(self, saved: Saved) -> None:
        """Put it where another machine finds it, and let go of those that nobody would go on from."""
        work = self._work
        folder = Path(saved.folder)
        files: dict[str, bytes | Path] = {file.name: file for file in folder.iterdir() if file.is_file()}
        files[_OWNER] = work.job.id.encode()
        stored = await asyncio.to_thread(work.shop.store.put_files, files)
        metrics = {"step": float(saved.step), **saved.metrics}
        unneeded = await work.shop.events.add_checkpoint(
            work.job.id, saved.step, stored.digest, metrics, is_best=saved.is_best
        )
        await work.note(checkpoint=stored.digest)
        for digest in unneeded:
            await asyncio.to_thread(work.shop.store.remove, digest)

    async def _tell(self, message: str, data: dict[str, Any]) -> None:
        await self._work.shop.events.tell(self._work.job.id, message, data=data)

    async def _estimate(self, remaining_s: float) -> None:
        if time.monotonic() - self._estimated_at >= _ESTIMATE_EVERY_S:
            self._estimated_at = time.monotonic()
            await self._work.note(estimated_finish=datetime.now(UTC) + timedelta(seconds=remaining_s))
