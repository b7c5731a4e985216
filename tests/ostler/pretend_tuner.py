"""Does what a tuner does with a job, as fast as a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from registry.database import connect
from registry.tuning.datasets import Datasets
from registry.tuning.events import NewEvent
from registry.tuning.jobs import Jobs
from registry.tuning.tables import DatasetRow, TuningJobRow
from tests.conftest import RunningGateway, until

WORKER = "tuner-1"
DIGEST = "d" * 64


def report(passed: bool, reason: str, **more: Any) -> dict[str, Any]:
    """A gate's report of two parts, and one that is only told; `more` of its fields."""
    part: dict[str, Any] = {
        "name": "quality",
        "rule": "superiority",
        "scorer": "exact_match",
        "against": "incumbent",
        "unit": "score",
        "n": 200,
        "candidate": 0.9,
        "reference": 0.6,
        "difference": 0.3,
        "low": 0.21,
        "high": 0.38,
        "threshold": 0.0,
        "passed": True,
        "reason": "support@1 is better than tiny: 0.900 against 0.600",
    }
    nothing = dict.fromkeys(("candidate", "reference", "difference", "low", "high"))
    refusals = part | nothing | {"name": "refusals", "rule": "non_inferiority", "n": 0}
    return {
        "format": 1,
        "passed": passed,
        "reason": reason,
        "candidate": "support@1-00000000",
        "incumbent": None,
        "base": "tiny",
        "page": None,
        "sets": {
            "holdout": {"name": "holdout.jsonl", "digest": "a" * 64, "rows": 100},
            "retention": {"name": "Ostler's own", "digest": "b" * 64, "rows": 205},
        },
        "parts": [part, refusals | {"passed": passed, "reason": reason}],
        "told": [part | {"name": "quality", "scorer": "token_f1"}],
        "plots": {},
        **more,
    }


class PretendTuner:
    """Claims the one job that there is, and says what tests want it to say."""

    def __init__(self, gateway: RunningGateway, engine: Any) -> None:
        self.gateway = gateway
        self.jobs, self.datasets = Jobs(engine), Datasets(engine)
        self.job: TuningJobRow | None = None

    async def claim(self) -> TuningJobRow:
        """Take the job as soon as it is there."""

        async def claimed() -> bool:
            self.job = await self.jobs.claim(WORKER, bases=["tiny"], lease_s=600)
            return self.job is not None

        await until(claimed, 60)
        assert self.job is not None
        return self.job

    async def freeze(self, adapter: str) -> None:
        """Register what it is made from."""
        assert self.job is not None
        dataset = DatasetRow(
            adapter=adapter,
            digest=DIGEST,
            method="supervised",
            size_bytes=10,
            counts={"train": 1200, "validation": 100, "holdout": 100},
            sources={"uploaded": 1000, "teacher": 400},
            parents=["e" * 64],
            report={"bad_rows_file": "file-1"},
            job=self.job.id,
        )
        await self.datasets.register(dataset)
        await self.note(dataset=DIGEST, state="running", stage="training")

    async def note(self, **values: Any) -> None:
        """Write columns of the job."""
        assert self.job is not None
        await self.jobs.note(self.job.id, WORKER, **values)

    async def step(self, step: int, total: int, loss: float) -> None:
        """A step's numbers."""
        assert self.job is not None
        data = {
            "step": step,
            "total_steps": total,
            "train_loss": loss,
            "learning_rate": 2e-4,
            "gradient_norm": 0.5,
            "tokens_per_second": 1234.0,
            "memory_bytes": 3_000_000_000,
            "remaining_s": 75.0,
        }
        event = NewEvent(f"Step {step}/{total}: training loss={loss:.4f}", data=data)
        await self.jobs.tell_all(self.job.id, WORKER, [event])

    async def register(self, adapter: str) -> int:
        """Push a candidate; its number."""
        folder = self.gateway.adapter_folder(9.0)
        lineage = {"dataset": DIGEST, "hyperparameters": {"rank": 8, "seed": 3}}
        pushed = await self.gateway.registry.push(adapter, folder, actor="tuner", base="tiny", lineage=lineage)
        await self.note(version=pushed.version.number)
        await self.gateway.app.state.directory.refresh()
        return pushed.version.number

    async def judge(self, adapter: str, number: int, *, passed: bool, reason: str, **more: Any) -> None:
        """Write the gate's verdict, and end the job by it; `more` stands in the report."""
        assert self.job is not None
        found = report(passed, reason, **more)
        await self.gateway.registry.judge(adapter, number, passed=passed, report=found, actor="tuner")
        await self.gateway.app.state.directory.refresh()
        if passed:
            model = f"{adapter}@{number}"
            await self.jobs.end(self.job.id, WORKER, "succeeded", "The job succeeded", fine_tuned_model=model)
            return
        error = {"code": "rejected_by_gate", "message": reason, "param": None}
        await self.jobs.end(self.job.id, WORKER, "failed", f"The job failed: {reason}", error=error)


@asynccontextmanager
async def tuner_of(gateway: RunningGateway) -> AsyncIterator[PretendTuner]:
    """One for a gateway's database."""
    engine = connect(gateway.app.state.settings.database)
    yield PretendTuner(gateway, engine)
    await engine.dispose()
