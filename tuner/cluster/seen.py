"""An object of ours in the cluster beside its job, as one look finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from registry.tuning.tables import TuningJobRow
from tuner.cluster import naming
from tuner.cluster.api import Object
from tuner.cluster.standing import Standing, moment_of


@dataclass(frozen=True, slots=True)
class Seen:
    """An object, its job, and how both stand.

    Attributes:
        pods: the object's.
        waits: whether the job waits for a tuner.
        is_older: whether the object was there before this dispatcher.
    """

    made: Object
    pods: Sequence[Object]
    job: TuningJobRow
    waits: bool
    is_older: bool
    standing: Standing

    @property
    def name(self) -> str:
        """The object's."""
        return name_of(self.made)

    @property
    def uid(self) -> str:
        """The object's, which no other ever has."""
        return uid_of(self.made)

    @property
    def is_awaited(self) -> bool:
        """Whether the job waits for this very object's pod."""
        return self.waits and self.is_next

    @property
    def is_next(self) -> bool:
        """Whether the object is of the job's turn that is still to come: its pod has never begun with the job."""
        return naming.object_name(self.job) == self.name

    @property
    def is_at_work(self) -> bool:
        """Whether the job is at work in this object's pod. One that lost its tuner waits, whoever that was."""
        return not self.waits and naming.holder(self.job) == self.name

    @property
    def ends_its_job(self) -> bool:
        """Whether its deadline is over, and is the job's: that is at work in it, or was so last and was given back."""
        return self.standing.is_over_deadline and naming.last_holder(self.job) == self.name

    @property
    def has_waited_too_long(self) -> bool:
        """Whether its deadline is over and all of it was spent on waiting, as for a GPU."""
        return self.standing.is_over_deadline and self.is_awaited and not self.standing.has_begun

    @property
    def deadline_s(self) -> int | None:
        """The object's own deadline, seconds; None where something else has set it, such as a training runtime."""
        seconds: int | None = self.made["spec"].get("activeDeadlineSeconds")
        return seconds

    @property
    def is_leaving(self) -> bool:
        """Whether the object is being deleted."""
        return self.leaving_since is not None

    @property
    def leaving_since(self) -> datetime | None:
        """When somebody asked for its deletion."""
        return moment_of(self.made["metadata"].get("deletionTimestamp"))


def name_of(made: Object) -> str:
    """An object's name."""
    name: str = made["metadata"]["name"]
    return name


def uid_of(made: Object) -> str:
    """What no other object ever has."""
    uid: str = made["metadata"]["uid"]
    return uid


def words(made: Object) -> str:
    """How an object is called in events."""
    return f"{made['kind']} {name_of(made)}"
