"""What a request costs the gateway as it grows: adapters, keys, replicas."""

from dataclasses import dataclass

from benchmarks.speed.processes import Cores
from benchmarks.speed.rounds import Figures
from benchmarks.speed.stock import Stock
from benchmarks.speed.systems import Ostler
from benchmarks.speed.trial import trial


@dataclass(frozen=True, slots=True)
class Size:
    """How much a gateway has."""

    adapters: int = 1
    keys: int = 10
    replicas: int = 1

    @property
    def name(self) -> str:
        """For a table."""
        return ", ".join(
            f"{number:,} {what}{'' if number == 1 else 's'}"
            for number, what in ((self.adapters, "adapter"), (self.keys, "key"), (self.replicas, "replica"))
        )


LEAST, MOST = Size(), Size(adapters=1000, keys=10_000)
SIZES = (LEAST, Size(adapters=100), Size(adapters=1000), Size(keys=10_000), MOST, Size(replicas=8))


async def cost(size: Size, cores: Cores, *, clients: int = 32, seconds: float) -> Figures:
    """One turn: processor time of a thousand requests, and the memory after them."""
    system = Ostler(size.name, stock=Stock(adapters=size.adapters, keys=size.keys))
    async with trial(system, cores, engines=size.replicas) as bench:
        pressed = await bench.press(clients=clients, seconds=seconds)
        return {"cpu_s_per_1000": pressed.cpu_s_per_1000, "memory_mib": bench.memory_mib}
