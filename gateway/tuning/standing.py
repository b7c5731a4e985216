"""What a policy asks of every training that it begins, held against what the tuning API takes."""

import json
from typing import Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.tuning.bodies import OstlerBody
from registry.errors import InvalidValue
from registry.policies import LARGEST_JOB
from registry.tuning.orders import Hyperparameters

_PARAM = "retrain.job"
_SAID_BY_THE_LOOP = ("adapter", "start_from", "reason", "decision")


class StandingJob(msgspec.Struct, forbid_unknown_fields=True):
    """What a policy may ask of its trainings; what is left out is as the tuner's rules have it."""

    hyperparameters: Hyperparameters = Hyperparameters()
    ostler: OstlerBody = OstlerBody()


def require_sound(job: dict[str, Any]) -> None:
    """Refuse what the tuning API would not take.

    Raises:
        InvalidRequest: it is too much.
        InvalidValue: the tuning API takes something else, or the loop says it itself.
    """
    try:
        size = len(json.dumps(job))
    except RecursionError:
        size = LARGEST_JOB + 1
    if size > LARGEST_JOB:
        raise InvalidRequest(f"{_PARAM} may have {LARGEST_JOB} bytes at most, and no endless nesting", param=_PARAM)
    try:
        msgspec.convert(job, StandingJob)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"{_PARAM} is nothing that a training can be asked for: {error}", param=_PARAM) from None
    if taken := [field for field in _SAID_BY_THE_LOOP if field in job.get("ostler", {})]:
        raise InvalidValue(f"{_PARAM} may not have ostler.{taken[0]}, which the loop says itself", param=_PARAM)
