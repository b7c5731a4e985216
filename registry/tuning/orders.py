"""What a tuning job is asked to do: one immutable order, stored with the job as JSON.

"auto" leaves a value to the rules of `tuner.training.auto`; what they gave is in the job's events and the version's
lineage.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from registry.errors import InvalidValue
from registry.monitoring import ScorerChoice

Auto = Literal["auto"]
Method = Literal["supervised", "dpo"]
Quantization = Literal["none", "nf4", "int8"]
PersonalData = Literal["replace", "keep"]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
FileId = Annotated[str, Meta(min_length=1, max_length=64)]
MOST_SCORERS = 10


class Hyperparameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's hyperparameters.

    Attributes:
        batch_size: rows for each optimizer step.
        learning_rate_multiplier: factor on the learning rate that the rules give.
        n_epochs: passes over the training split.
        beta: of DPO alone: how much a distance from the reference model costs.
    """

    batch_size: Auto | Annotated[int, Meta(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Meta(gt=0.0, le=1000.0)] = "auto"
    n_epochs: Auto | Annotated[int, Meta(ge=1, le=50)] = "auto"
    beta: Auto | Annotated[float, Meta(gt=0.0, le=10.0)] = "auto"


class LoraOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The adapter's shape, and in what the base model is held while it is trained.

    Attributes:
        rank: LoRA's r.
        alpha: LoRA's alpha; "auto" scales updates by 2, which is alpha = 2 r, or 2 sqrt(r) with rsLoRA.
        targets: the modules' last names, such as ``q_proj``, or every linear layer.
        rslora: whether the scale is alpha / sqrt(r) (Kalajdzievski, arXiv 2312.03732) in place of alpha / r.
        quantization: of the frozen base: bitsandbytes' NF4 with double quantization, its int8, or none.
    """

    rank: Auto | Annotated[int, Meta(ge=1, le=512)] = "auto"
    alpha: Auto | Annotated[float, Meta(gt=0.0, le=4096.0)] = "auto"
    targets: Literal["all-linear"] | Annotated[list[str], Meta(min_length=1, max_length=50)] = "all-linear"
    rslora: bool = False
    quantization: Quantization = "none"


class DataOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the uploaded rows become a dataset.

    Attributes:
        bad_rows_share: the largest share of rows that may be left out as unusable before the job fails.
        near_duplicates: the Jaccard similarity from which two rows (prompt and answer) are one; None keeps such rows.
        personal_data: whether what is found of it is replaced by a placeholder.
        validation_share: of the rows, where no validation file is given.
        holdout_share: of the rows, which no version is ever trained on, for the gate.
        replay_share: how many rows of an earlier version's training data are mixed in, as a share of the new ones;
            None is a fifth where there is an earlier version, else nothing.
        replay_from: that version's number; None is the one that the job starts from, else the stable one.
        longest: tokens of the longest row; None is the engine's context.
    """

    bad_rows_share: Share = 0.05
    near_duplicates: Annotated[float, Meta(ge=0.5, le=1.0)] | None = 0.9
    personal_data: PersonalData = "replace"
    validation_share: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.1
    holdout_share: Annotated[float, Meta(ge=0.01, le=0.5)] = 0.1
    replay_share: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    replay_from: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    longest: Annotated[int, Meta(ge=8, le=1_000_000)] | None = None


class StoppingOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When training ends early, by the loss on the validation split.

    Attributes:
        patience: evaluations without an improvement; 0 never ends it early.
        least_change: what counts as an improvement (nats a token).
        checkpoints: evaluations, each with a checkpoint, in an epoch.
    """

    patience: Annotated[int, Meta(ge=0, le=100)] = 3
    least_change: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.001
    checkpoints: Annotated[int, Meta(ge=1, le=100)] = 4


class GateOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a candidate must show before it may be promoted; `tuner.evaluation.gate` has the rule.

    Attributes:
        scorers: names of `monitors.judging.scorers`; the first decides, the others are told. None takes the adapter's
            own that need a reference, else ``exact_match`` and ``token_f1``.
        least_gain: what it must gain on the incumbent, in the scorer's unit; the interval's lower end must be above.
        alpha: the error probability of each interval.
        rows: holdout rows that are asked at most, drawn by hash.
        perplexity_margin: how much its loss on the holdout's references may lie above the incumbent's (nats; the mean
            of the rows' clipped differences).
        retention_file, refusal_file: uploaded files (purpose ``evals``) in place of the tuner's own sets.
        retention_margin: how much of the base model's general skills it may lose (score); the base must score several
            times that, but for 1, which asks for nothing.
        refusal_margin: how much less it may refuse what the base model refuses (share of prompts).
        latency_ratio: how many times the incumbent's time for a token its own may be.
    """

    scorers: Annotated[list[ScorerChoice], Meta(min_length=1, max_length=MOST_SCORERS)] | None = None
    least_gain: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    alpha: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.05
    rows: Annotated[int, Meta(ge=10, le=10_000)] = 400
    perplexity_margin: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.05
    retention_file: FileId | None = None
    refusal_file: FileId | None = None
    retention_margin: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    refusal_margin: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    latency_ratio: Annotated[float, Meta(ge=1.0, le=100.0)] = 1.5


_OWN_FIELDS = frozenset(
    ("adapter", "start_from", "stopping", "gate", "reason", *LoraOrder.__struct_fields__, *DataOrder.__struct_fields__)
)
"""What OpenAI has no field for, so that requests have it under `ostler`."""


class TuningOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a job is asked to do.

    Attributes:
        adapter: whose next version is made; it need not exist yet.
        base: the base model's name.
        start_from: the version whose weights training goes on from; None begins with a new LoRA.
        training_file, validation_file: ids of uploaded files.
        seed: of the order of rows, the new weights and whatever else is drawn.
        note: becomes the version's note; OpenAI's `suffix`.
        metadata: the client's own, given back as it came.
        reason: why the job was asked for, for those that nobody asked for by hand.
    """

    adapter: str
    base: str
    training_file: FileId
    method: Method = "supervised"
    start_from: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    validation_file: FileId | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    hyperparameters: Hyperparameters = Hyperparameters()
    lora: LoraOrder = LoraOrder()
    data: DataOrder = DataOrder()
    stopping: StoppingOrder = StoppingOrder()
    gate: GateOrder = GateOrder()
    note: Annotated[str, Meta(max_length=64)] = ""
    metadata: dict[str, str] | None = None
    reason: Annotated[str, Meta(max_length=1000)] = ""

    def param_of(self, field: str) -> str:
        """Where a field of the order stands in a request for it, as errors name it in `param`."""
        name = field.split(".", maxsplit=1)[0]
        if name in Hyperparameters.__struct_fields__:
            return f"method.{self.method}.hyperparameters.{field}"
        return f"ostler.{field}" if name in _OWN_FIELDS else field

    def check(self) -> None:
        """What the types cannot say.

        Raises:
            InvalidValue: values that do not go together.
        """
        if self.method == "supervised" and self.hyperparameters.beta != "auto":
            raise InvalidValue("`beta` is a hyperparameter of the method dpo alone", param=self.param_of("beta"))
        if self.data.validation_share + self.data.holdout_share > 0.8:
            raise InvalidValue(
                "`validation_share` and `holdout_share` leave less than a fifth of the rows to train on",
                param=self.param_of("validation_share"),
            )
        if isinstance(self.lora.alpha, float) and not math.isfinite(self.lora.alpha):
            raise InvalidValue("`alpha` must be a finite number", param=self.param_of("alpha"))
