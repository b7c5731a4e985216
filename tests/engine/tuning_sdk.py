"""A fine-tuning job from the upload to the first chat, as users of OpenAI's SDK do it.

`python -m tests.engine.tuning_sdk ORDER` in a process of its own, because a process holds one version of the SDK. ORDER
is JSON: url, key, version, file, create (the arguments of `jobs.create` beside the file) and question. It prints what
it saw as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

_WITHIN_S = 600.0
_ENDED = ("succeeded", "failed", "cancelled")


def main() -> None:
    """Upload, create, follow, list checkpoints, chat."""
    order = json.loads(sys.argv[1])
    assert openai.__version__.startswith(order["version"] + "."), openai.__version__
    client = openai.OpenAI(base_url=order["url"] + "/v1", api_key=order["key"], timeout=60.0)
    with Path(order["file"]).open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    assert client.files.wait_for_processing(file.id).status == "processed"
    job = client.fine_tuning.jobs.create(training_file=file.id, **order["create"])
    job, events = _follow(client, job.id)
    seen: dict[str, Any] = {"job": job.to_dict(), "events": [event.to_dict() for event in events]}
    seen["checkpoints"] = [each.to_dict() for each in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
    seen["results"] = [client.files.content(each).text for each in job.result_files]
    if job.fine_tuned_model:
        said = client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": order["question"]}], temperature=0
        )
        seen["answer"] = {"model": said.model, "text": said.choices[0].message.content}
    print(json.dumps(seen))


def _follow(client: openai.OpenAI, id: str) -> tuple[FineTuningJob, list[FineTuningJobEvent]]:
    """Poll as OpenAI's guide does, each event once; the job as it ended and its events, oldest first."""
    events: dict[str, FineTuningJobEvent] = {}
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(id)
        for event in client.fine_tuning.jobs.list_events(id, limit=50):  # pages by itself
            if event.id in events:
                break
            events[event.id] = event
        if job.status in _ENDED:
            return job, sorted(events.values(), key=lambda event: event.id)
        time.sleep(0.5)
    raise TimeoutError(f"the job {id} is {job.status} after {_WITHIN_S} s")


if __name__ == "__main__":
    main()
