"""What follows when a decision cannot be carried out."""

from dataclasses import replace
from datetime import timedelta

import msgspec

from monitors.loop.refusals import forgotten, instead, is_over
from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending
from monitors.loop.verdicts import Act, Verdict
from registry.policies import RolloutRule
from tests.monitors.loop.cases import NOW, TUNING

RETRAIN = Pending(Verdict("retrain", "begun", "a rule", "a reason", "a change"), 17, TUNING, 3, NOW)


def test_a_training_that_may_have_been_asked_for_uses_up_its_number() -> None:
    """Its job may be there though nobody heard of it: another one by the same key is refused for ever."""
    for tries in (0, 1):  # the first try may still be under way, of a monitor that has lost its lease
        asked = msgspec.structs.replace(RETRAIN, file="file-1", tries=tries)
        kept = forgotten(Kept(LoopState(cycle=3), pending=asked))
        assert (kept.pending, kept.state.cycle) == (None, TUNING.cycle)
    for unasked in (RETRAIN, None):
        assert forgotten(Kept(LoopState(cycle=3), pending=unasked)) == Kept(LoopState(cycle=3))


def test_handing_over_to_a_person_is_tried_for_ever() -> None:
    """There is nothing else to do instead; all others end."""
    rule = RolloutRule(longest_h=1.0)
    acts: dict[Act, bool] = {"roll_back": True, "promote": True, "stand_back": False}
    for act, ends in acts.items():
        pending = msgspec.structs.replace(RETRAIN, verdict=replace(RETRAIN.verdict, act=act))
        assert not is_over(pending, rule, NOW)
        assert is_over(pending, rule, NOW + timedelta(hours=2)) == ends
        assert not ends or instead(pending, "it is away", rule).outcome == "given_up"
