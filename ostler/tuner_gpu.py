"""Where the tuner of `ostler up` trains: on a GPU that no engine has, else on an engine's, which it gives way to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ostler.devices import VISIBLE, gpus_per_engine, memory_per_engine, visible_gpus
from ostler.engine_command import Device
from ostler.settings import UpSettings
from tuner.settings import TunerSettings

_SPARE = 0.04
"""Of the GPU's memory: a process takes some of it besides what training does, and the engine's share is its own."""
_LEAST = 0.02


@dataclass(frozen=True, slots=True)
class TunerGpu:
    """What the tuner is told by its environment, and what whoever runs `ostler up` is told of it, if anything."""

    environment: Mapping[str, str] = field(default_factory=dict)
    words: str = ""


def tuner_gpu(settings: UpSettings, own: TunerSettings, build: Device) -> TunerGpu:
    """Give the tuner its GPU, unless its `own` settings say how it shares one.

    Beside an engine it gets what this leaves of the memory: an engine that has to be started again must find its part.

    Raises:
        InvalidEngineOptions: an argument for the engine that must be a number is none.
    """
    if build == "cpu" or own.tuner_device == "cpu" or "tuner_sharing" in own.model_fields_set:
        return TunerGpu()
    free = visible_gpus()[settings.replicas * gpus_per_engine(settings.extra_args) :]
    if len(free) >= own.tuner_processes:
        named = ",".join(free)
        return TunerGpu({VISIBLE: named}, f"the tuner trains on GPUs that no engine has: {named}")
    share, environment = own.tuner_memory_share, {"OSTLER_TUNER_SHARING": "wait"}
    if share is None:
        taken = memory_per_engine(settings.extra_args, settings.gpu_memory_utilization)
        share = max(_LEAST, round(1 - taken - _SPARE, 2))
        environment["OSTLER_TUNER_MEMORY_SHARE"] = str(share)
    return TunerGpu(
        environment,
        f"the tuner shares the engine's GPU: training begins when the engine is idle, in {share:.0%} of the memory "
        "(a smaller OSTLER_GPU_MEMORY_UTILIZATION leaves it more; OSTLER_TUNER_SHARING says otherwise)",
    )
