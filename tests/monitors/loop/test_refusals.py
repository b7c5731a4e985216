"""What follows when a decision cannot be carried out."""

import msgspec

from monitors.loop.refusals import forgotten
from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending
from monitors.loop.verdicts import Verdict
from tests.monitors.loop.cases import NOW, TUNING

RETRAIN = Pending(Verdict("retrain", "begun", "a rule", "a reason", "a change"), 17, TUNING, 3, NOW)


def test_a_training_that_may_have_been_asked_for_uses_up_its_number() -> None:
    """Its job may be there though nobody heard of it: another one by the same key is refused for ever."""
    asked = msgspec.structs.replace(RETRAIN, file="file-1", tries=1)
    kept = forgotten(Kept(LoopState(cycle=3), pending=asked))
    assert (kept.pending, kept.state.cycle) == (None, TUNING.cycle)
    for unasked in (RETRAIN, msgspec.structs.replace(RETRAIN, file="file-1"), None):
        assert forgotten(Kept(LoopState(cycle=3), pending=unasked)) == Kept(LoopState(cycle=3))
