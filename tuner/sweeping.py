"""Throws away what ended jobs left behind: folders here, checkpoints in the store, versions at their gate."""

import asyncio
import logging
import shutil

from registry.errors import NotFound, RegistryError
from registry.outages import is_outage
from registry.tuning.jobs import ENDED
from tuner.candidates import reject_left_candidates
from tuner.shop import Shop

log = logging.getLogger(__name__)


async def sweep(shop: Shop) -> None:
    """Do it as far as the database and the store are there; whatever fails is done the next time."""
    for part in (_drop_workspaces, _drop_checkpoints, reject_left_candidates):
        try:
            await part(shop)
        except RegistryError as failure:
            log.warning("what ended jobs left behind is not swept now: %s", failure.message)
        except Exception as error:
            if not is_outage(error) and not isinstance(error, OSError):
                raise
            log.warning("what ended jobs left behind is not swept now (%s)", type(error).__name__)


async def _drop_workspaces(shop: Shop) -> None:
    await asyncio.to_thread(shop.store.sweep)
    for folder in await asyncio.to_thread(lambda: list(shop.settings.work.glob("ftjob-*"))):
        if await _has_ended(shop, folder.name.partition(".")[0]):  # behind it, which of several machines
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _has_ended(shop: Shop, job_id: str) -> bool:
    try:
        return (await shop.jobs.find(job_id)).state in ENDED
    except NotFound:
        return True


async def _drop_checkpoints(shop: Shop) -> None:
    """First the content, then what names it, so that nothing stays in the store that nobody knows of."""
    for job in await shop.jobs.unswept():
        for checkpoint in await shop.events.kept_checkpoints(job.id):
            assert checkpoint.digest is not None
            await asyncio.to_thread(shop.store.remove, checkpoint.digest)
        await shop.events.drop_checkpoints(job.id)
