"""A job that broke off is tried again, but not at once: what was away for a while gets the time to come back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from registry.artifacts import ArtifactStore
from registry.database import connect, writing
from registry.errors import StoreFailure
from registry.tuning.tables import TuningJobRow
from tests.conftest import until
from tests.tuner.fake_child import Script
from tests.tuner.shops import ask, is_in, job_of, messages, shop_of, stages, tuner_settings, working
from tuner.shop import Shop
from tuner.worker import Worker

_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]


class AwayStore(ArtifactStore):
    """A store that cannot be written."""

    def put_files(self, files: Any) -> Any:
        """Fail as an object store does that is away."""
        raise StoreFailure("the artifact store could not be written: timed out")


async def begin_again(shop: Shop, job_id: str) -> float:
    """Wait until the job broke off, and have its time come; how long it would have waited, seconds."""

    async def is_off() -> bool:
        return (await job_of(shop, job_id)).claimable_from is not None

    await until(is_off, 60)
    from_ = (await job_of(shop, job_id)).claimable_from
    assert from_ is not None
    async with writing(shop.jobs._engine) as connection:
        await connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(claimable_from=None))
    return (from_ - datetime.now(UTC)) / timedelta(seconds=1)


async def test_each_further_attempt_waits_longer(tmp_path: Path, sqlite_template: Path) -> None:
    """Minutes in all, before a store that is away ends a job."""
    (tmp_path / "ostler.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{tmp_path}/ostler.db"
    settings = tuner_settings(tmp_path, url, tuner_retry_s=600.0)
    shop = shop_of(settings, connect(url), Script())
    job_id = await ask(shop)
    away = shop_of(settings, connect(url), Script(), store=AwayStore(settings.artifacts, settings.cache))
    async with working(Worker(away, stages())):
        waits = [await begin_again(shop, job_id) for _ in range(2)]
        await until(is_in(shop, job_id, "failed"), 60)
    assert 500 < waits[0] <= 600
    assert 3500 < waits[1] <= 3600
    assert (await messages(shop, job_id))[-1].endswith("timed out, 3 times")
