"""What whoever started a tuner for one job knows it by: its name, and the exit code that says what came of the job."""

GIVEN_BACK = 75
"""The job waits again: this tuner had to stop, or something broke off that is tried again later."""
LOST = 76
"""Another tuner holds the job now."""
NOT_THERE = 77
"""There is no such job to take: it is not known, not this tuner's, or another one's."""
NOT_CLAIMED = "not_claimed"
"""How it went with a job that is not there to take."""
_CODES = {"given_back": GIVEN_BACK, "tried_again": GIVEN_BACK, "lost": LOST, NOT_CLAIMED: NOT_THERE}


def exit_code(outcome: str) -> int:
    """The exit code of what `tuner.worker.Worker.do` says: 0 where the job has ended, however it did, or is paused."""
    return _CODES.get(outcome, 0)


def host_of(worker: str) -> str:
    """What a tuner's name begins with: its machine's name, or what `OSTLER_TUNER_NAME` says."""
    return worker.rpartition("-")[0]
