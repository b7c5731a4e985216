"""A tuner and an engine on one GPU: who waits for whom, and that the engine always comes back."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitors.watch.client import GatewayClient
from tests.conftest import RunningGateway, until
from tests.tuner.works import at_work, said
from tuner import children, sharing
from tuner.errors import Interrupted
from tuner.sharing import engine_makes_room
from tuner.shop import AtWork

SLEEP, WAKE = "/admin/v1/replicas/engine-0/sleep", "/admin/v1/replicas/engine-0/wake"


class Gateway:
    """Tells of its engines, and does as it is told."""

    def __init__(self, *idle_s: float) -> None:
        self.replicas = [
            {"id": f"engine-{number}", "pool": "tiny", "state": "ready", "idle_s": idle}
            for number, idle in enumerate(idle_s)
        ]
        self.calls: list[tuple[str, Any]] = []
        self.status: dict[str, int] = {}
        self.is_away = False
        self.is_busy_from = ""
        self.looks = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        if self.is_away:
            raise httpx.ConnectError("away", request=request)
        path = request.url.path
        if path == "/admin/v1/replicas":
            self.looks += 1
            return httpx.Response(200, json={"data": self.replicas, "has_more": False})
        self.calls.append((path, json.loads(request.content)))
        if path == self.is_busy_from:
            self.replicas[0]["idle_s"] = 0.0
        return httpx.Response(self.status.get(path, 200), json={})

    @property
    def paths(self) -> list[str]:
        """What was called, apart from looks."""
        return [path for path, _ in self.calls]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its pauses."""
    monkeypatch.setattr(sharing, "_LOOK_S", 0.01)
    monkeypatch.setattr(sharing, "_RENEW_S", 0.05)
    monkeypatch.setattr(sharing, "_TRY_AGAIN_S", 0.01)


def work_of(folder: Path, gateway: Gateway, **settings: Any) -> AtWork:
    """A job before that gateway."""
    usual: dict[str, Any] = {"tuner_sharing": "sleep", "tuner_quiet_s": 60.0}
    return at_work(folder, gateway=gateway, **usual | settings)


async def test_a_gpu_of_its_own_is_shared_with_nobody(tmp_path: Path) -> None:
    """Training begins at once, and nobody is asked."""
    gateway = Gateway()
    gateway.is_away = True
    async with engine_makes_room(work_of(tmp_path, gateway, tuner_sharing="none")):
        pass


@pytest.mark.parametrize("busy", [{"idle_s": 59.0}, {"state": "loading"}, {"state": "asleep"}, {"state": "down"}])
async def test_training_waits_for_a_quiet_time(tmp_path: Path, busy: dict[str, Any]) -> None:
    """Until each engine serves and was idle for long enough; that it waits is told once."""
    gateway = Gateway(100.0, 100.0)
    gateway.replicas[1] |= busy
    work = work_of(tmp_path, gateway, tuner_sharing="wait")
    entered = asyncio.Event()

    async def train() -> None:
        async with engine_makes_room(work):
            entered.set()

    training = asyncio.create_task(train())
    await until(lambda: said(work))
    assert not entered.is_set()
    gateway.replicas[1] |= {"idle_s": 61.0, "state": "ready"}
    await asyncio.wait_for(training, 10)
    assert said(work) == ["info: Training begins when the engine has been idle for 60 s"]
    assert gateway.calls == []


async def test_no_engine_is_no_quiet_one(tmp_path: Path) -> None:
    """A gateway that has not found its engines yet may find a busy one."""
    gateway = Gateway()
    training = asyncio.create_task(_train(work := work_of(tmp_path, gateway, tuner_sharing="wait")))
    await until(lambda: said(work))
    gateway.replicas = Gateway(100.0).replicas
    await asyncio.wait_for(training, 10)


async def test_engines_of_other_base_models_are_not_waited_for(tmp_path: Path) -> None:
    """They are on other GPUs, as are those beside the one that is named."""
    gateway = Gateway(100.0, 0.0, 0.0)
    gateway.replicas[1]["pool"] = "large"
    work = work_of(tmp_path, gateway, tuner_sharing="wait", tuner_replica="engine-0")
    async with asyncio.timeout(10), engine_makes_room(work):
        pass


async def test_a_wait_ends_when_the_job_is_to_stop(tmp_path: Path) -> None:
    """A gateway that is away is waited for, too."""
    gateway = Gateway(100.0)
    gateway.is_away = True
    work = work_of(tmp_path, gateway)
    waiting = asyncio.create_task(_train(work))
    await until(lambda: said(work))
    work.control.stop("cancel")
    with pytest.raises(Interrupted):
        await asyncio.wait_for(waiting, 10)


async def _train(work: AtWork) -> None:
    async with engine_makes_room(work):
        pass


async def test_the_engine_sleeps_while_training_goes_on(tmp_path: Path) -> None:
    """It is kept asleep by renewals, and woken at the end, by who had it sleep."""
    gateway = Gateway(100.0)
    async with engine_makes_room(work_of(tmp_path, gateway)):
        assert gateway.paths == [SLEEP]
        await until(lambda: len(gateway.paths) >= 3)
        assert set(gateway.paths) == {SLEEP}
    assert gateway.paths[-1] == WAKE
    first = {"holder": "worker", "for_s": 120.0, "force": False, "renew": False}
    assert gateway.calls[0][1] == first
    assert gateway.calls[1][1] == first | {"renew": True}
    assert gateway.calls[-1][1] == {"holder": "worker"}


async def test_the_engine_is_woken_when_training_fails(tmp_path: Path) -> None:
    """However it ends."""
    gateway = Gateway(100.0)
    with pytest.raises(ValueError, match="wrong"):
        async with engine_makes_room(work_of(tmp_path, gateway)):
            raise ValueError("wrong")
    assert gateway.paths[-1] == WAKE


@pytest.mark.parametrize("status", [409, 503])
async def test_an_engine_that_is_not_put_to_sleep_is_trained_beside_in_a_share(tmp_path: Path, status: int) -> None:
    """It is told why, and whatever came of the order is taken back."""
    gateway = Gateway(100.0)
    gateway.status[SLEEP] = status
    work = work_of(tmp_path, gateway, tuner_memory_share=0.3)
    async with engine_makes_room(work):
        assert gateway.paths == [SLEEP, WAKE]
    assert gateway.paths == [SLEEP, WAKE]
    (told,) = said(work)
    assert told.startswith("warn: The engine engine-0 is not put to sleep")
    assert told.endswith("in its share of the memory")


@pytest.mark.parametrize("status", [409, 503])
async def test_without_a_share_training_waits_until_the_engine_sleeps(tmp_path: Path, status: int) -> None:
    """It would take all the memory that is free. That it waits is told once, and each try is taken back."""
    gateway = Gateway(100.0)
    gateway.status[SLEEP] = status
    work = work_of(tmp_path, gateway)
    training = asyncio.create_task(_train(work))
    await until(lambda: gateway.paths.count(SLEEP) >= 3)
    assert not training.done()
    del gateway.status[SLEEP]
    await asyncio.wait_for(training, 10)
    assert gateway.paths == [SLEEP, WAKE] * (len(gateway.paths) // 2)
    told = [message for message in said(work) if message.startswith("warn")]
    assert len(told) == 1
    assert told[0].endswith("; training waits")


async def test_a_try_to_put_a_busy_engine_to_sleep_waits_for_a_quiet_time(tmp_path: Path) -> None:
    """Each takes it out of service for a while."""
    gateway = Gateway(100.0)
    gateway.status[SLEEP] = 409
    work = work_of(tmp_path, gateway)
    training = asyncio.create_task(_train(work))
    gateway.is_busy_from = SLEEP
    await until(lambda: gateway.looks >= 10)
    assert gateway.paths == [SLEEP, WAKE]
    work.control.stop("cancel")
    with pytest.raises(Interrupted):
        await asyncio.wait_for(training, 10)


async def test_a_job_is_given_back_when_its_engine_is_not_put_to_sleep_for_long(tmp_path: Path) -> None:
    """For as long as the settings wait for an engine; nothing of it is lost, and it is tried again later."""
    gateway = Gateway(100.0)
    gateway.status[SLEEP] = 409
    with pytest.raises(Interrupted) as interrupted:
        await asyncio.wait_for(_train(work_of(tmp_path, gateway, tuner_engine_wait_s=0.1)), 10)
    assert interrupted.value.cause == "engine"


async def test_training_stops_before_the_engine_is_woken_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine must find its memory free, when its sleep cannot be renewed any more."""
    monkeypatch.setattr(sharing, "_GIVE_UP_S", 0.3)
    gateway = Gateway(100.0)
    work = work_of(tmp_path, gateway)
    async with engine_makes_room(work):
        gateway.is_away = True
        assert await asyncio.wait_for(work.control.wait(), 10) == "engine"
        gateway.is_away = False


async def test_training_stops_in_time_however_long_a_renewal_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a pause nor a gateway that is silent may outlast what is left of the lease."""
    monkeypatch.setattr(sharing, "_GIVE_UP_S", 0.3)
    monkeypatch.setattr(sharing, "_RENEW_S", 1000.0)
    gateway = Gateway(100.0)
    work = work_of(tmp_path, gateway)
    async with engine_makes_room(work):
        gateway.is_away = True
        assert await asyncio.wait_for(work.control.wait(), 10) == "engine"


def test_a_lease_outlasts_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a training which is stopped because the lease cannot be renewed, with as much again to spare."""
    monkeypatch.undo()
    assert sharing._LEASE_S >= sharing._GIVE_UP_S + 2 * children._ENGINE_NEEDS_S


async def test_training_stops_at_once_when_somebody_wakes_the_engine(tmp_path: Path) -> None:
    """A person's wish wins: it is not put to sleep again."""
    gateway = Gateway(100.0)
    work = work_of(tmp_path, gateway)
    async with engine_makes_room(work):
        gateway.status[SLEEP] = 409
        assert await asyncio.wait_for(work.control.wait(), 10) == "engine"


async def test_which_of_several_engines_sleeps_must_be_said(tmp_path: Path) -> None:
    """Nobody knows which of them is on the tuner's GPU."""
    gateway = Gateway(100.0, 100.0)
    work = work_of(tmp_path, gateway, tuner_memory_share=0.3)
    async with engine_makes_room(work):
        assert gateway.calls == []
    (told,) = said(work)
    assert "set OSTLER_TUNER_REPLICA" in told
    async with engine_makes_room(work_of(tmp_path, gateway, tuner_replica="engine-0")):
        assert gateway.paths == [SLEEP]


async def test_before_a_real_gateway_the_engine_sleeps_and_serves_again(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """By force, as it is the only one; a client that comes meanwhile waits and is answered."""
    gateway.engine.can_sleep = True
    work = at_work(tmp_path, tuner_sharing="sleep", tuner_quiet_s=0.0, tuner_sleep_last=True)
    async with GatewayClient(gateway.url, gateway.key, concurrency=2) as client:
        object.__setattr__(work.shop, "gateway", client)
        async with engine_makes_room(work):
            assert gateway.engine.asleep
            asking = asyncio.create_task(gateway.chat("tiny"))
        assert not gateway.engine.asleep
        assert (await asking).status_code == 200
    assert gateway.engine.touched_asleep == []
