"""The body that asks for a fine-tuning job: OpenAI's fields, and under `ostler` what OpenAI has no field for."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.admin.fields import NO_NUL, DecisionId, Number, Text
from registry.names import ADAPTER_PATTERN
from registry.tuning.orders import (
    Auto,
    GateOrder,
    Hyperparameters,
    PersonalData,
    Quantization,
    Share,
    StoppingOrder,
)

_Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=NO_NUL)]
_FileId = Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_NUL)]
_Suffix = Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_NUL)]
_Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_NUL)],
        Annotated[str, Meta(max_length=512, pattern=NO_NUL)],
    ],
    Meta(max_length=16),
]
_Targets = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]], Meta(min_length=1)]


class MethodBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method's hyperparameters; `beta` is of dpo alone."""

    hyperparameters: Hyperparameters | None = None


class MethodBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train: supervised, or dpo on preferences. OpenAI's third method, reinforcement, is not available."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: MethodBlock | None = None
    dpo: MethodBlock | None = None
    reinforcement: Any = None


class OstlerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What OpenAI has no field for; `registry.tuning.orders` says what each means.

    `adapter` is whose next version is made, `start_from` the number of the version that training goes on from. Shares
    are of rows. `decision` is the loop's decision that the job follows from: it is refused while automatic change is
    stopped. What is left out is as the tuner's rules have it.
    """

    adapter: Annotated[str, Meta(pattern=f"^{ADAPTER_PATTERN}$")] | None = None
    start_from: Number | None = None
    reason: Text = ""
    decision: DecisionId | None = None
    rank: Auto | Annotated[int, Meta(ge=1, le=512)] = "auto"
    alpha: Auto | Annotated[float, Meta(gt=0.0, le=4096.0)] = "auto"
    targets: Literal["all-linear"] | Annotated[_Targets, Meta(max_length=50)] = "all-linear"
    rslora: bool = False
    quantization: Quantization = "none"
    bad_rows_share: Share = 0.05
    near_duplicates: Annotated[float, Meta(ge=0.5, le=1.0)] | None = 0.9
    personal_data: PersonalData = "replace"
    validation_share: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.1
    holdout_share: Annotated[float, Meta(ge=0.01, le=0.5)] = 0.1
    replay_share: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    replay_from: Number | None = None
    longest: Annotated[int, Meta(ge=8, le=1_000_000)] | None = None
    stopping: StoppingOrder = StoppingOrder()
    gate: GateOrder = GateOrder()


class NewJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The job to queue.

    `model` is a base model (a new adapter, or a version of one that begins anew), an adapter (training goes on from its
    stable version), or one version of it as `support@2`. A `suffix` is the version's note, and the adapter's name where
    `ostler.adapter` says none. `hyperparameters` is the deprecated place for those of `method`.
    """

    model: _Name
    training_file: _FileId
    validation_file: _FileId | None = None
    method: MethodBody | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: _Suffix | None = None
    seed: _Seed | None = None
    metadata: _Metadata | None = None
    integrations: Annotated[list[Any], Meta(max_length=0)] | None = None
    ostler: OstlerBody = OstlerBody()
