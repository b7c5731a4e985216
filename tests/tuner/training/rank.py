"""One of several processes: steps until any of them is asked to stop. ``-m tests.tuner.training.rank FOLDER [FAIL]``.

It leaves its process id in the folder, and the step after which it stopped. The process of the number FAIL fails in its
third step.
"""

import os
import sys
import time
from pathlib import Path

import torch.distributed

from tuner.messages import Failed, Step, Stopped
from tuner.telling import Teller
from tuner.training.together import any_of_us


def main() -> int:
    """Step until asked to stop; the exit code."""
    teller, folder = Teller(), Path(sys.argv[1])
    rank, failing = os.environ["RANK"], sys.argv[2:]
    print("libraries print what they like")
    torch.distributed.init_process_group("gloo")
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    step = 0
    while not any_of_us(teller.stop_asked):
        step += 1
        teller(Step(step, 0, 0.0, 0.0, 0.0, None, 0, 0.0, 0, 0.0, extra={"rank": float(rank)}))
        time.sleep(0.02)
        if step == 3 and [rank] == failing:
            teller(Failed("out_of_memory", f"memory ran out in process {rank}"))
            return 1
    (folder / f"{rank}.stopped").write_text(str(step))
    teller(Stopped(step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
