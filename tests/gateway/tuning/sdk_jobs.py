"""What OpenAI's SDK makes of fine-tuning jobs. Run as a process of its own, because a process holds one version of it.

`python -m tests.gateway.tuning.sdk_jobs VERSION URL KEY` exits with 0 if all is as it should be. No tuner is at work.
"""

import sys
import time
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

ROWS = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'


def main() -> None:
    """Create, look, page, stop, and be refused as the SDK's errors have it."""
    version, url, key = sys.argv[1:]
    assert openai.__version__.startswith(version + "."), openai.__version__
    client = openai.OpenAI(base_url=url + "/v1", api_key=key, timeout=30.0, max_retries=0)
    file_id = client.files.create(file=ROWS, purpose="fine-tune").id
    _supervised(client, file_id)
    _dpo(client, file_id)
    _page(client, file_id)
    _stop(client, file_id)
    _refusals(client, file_id)


def _supervised(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        suffix="support",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        metadata={"team": "a"},
        extra_body={"ostler": {"rank": 8, "gate": {"scorers": [{"scorer": "exact_match"}]}}},
    )
    FineTuningJob.model_validate(job.to_dict(), strict=True)
    assert (job.object, job.status, job.model, job.training_file) == ("fine_tuning.job", "queued", "tiny", file_id)
    assert (job.seed, job.metadata, job.result_files, job.organization_id) == (7, {"team": "a"}, [], "ostler")
    assert abs(job.created_at - time.time()) < 60
    nothing = (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens, job.validation_file)
    assert nothing == (None,) * 5
    assert (job.estimated_finish, job.integrations) == (None, None)
    assert job.hyperparameters.n_epochs == 2
    assert (job.hyperparameters.batch_size, job.hyperparameters.learning_rate_multiplier) == ("auto", "auto")
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert (job.method.type, job.method.dpo) == ("supervised", None)
    assert job.method.supervised.hyperparameters.n_epochs == 2
    ours: Any = job.to_dict()["ostler"]
    assert (ours["adapter"], ours["state"], ours["stage"], ours["candidate"]) == ("support", "queued", "waiting", None)
    assert ours["order"]["lora"]["rank"] == 8
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    (event,) = client.fine_tuning.jobs.list_events(job.id)
    FineTuningJobEvent.model_validate(event.to_dict(), strict=True)
    assert (event.level, event.type, event.object) == ("info", "message", "fine_tuning.job.event")
    assert event.message == f"Created fine-tuning job: {job.id}"
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    client.fine_tuning.jobs.cancel(job.id)


def _dpo(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "learning_rate_multiplier": 0.5}}},
        extra_body={"ostler": {"adapter": "support"}},
    )
    FineTuningJob.model_validate(job.to_dict(), strict=True)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert (job.method.type, job.method.supervised) == ("dpo", None)
    given = job.method.dpo.hyperparameters
    assert (given.beta, given.learning_rate_multiplier, given.n_epochs) == (0.2, 0.5, "auto")
    client.fine_tuning.jobs.cancel(job.id)


def _page(client: openai.OpenAI, file_id: str) -> None:
    jobs = client.fine_tuning.jobs
    made = [
        jobs.create(
            model="tiny",
            training_file=file_id,
            hyperparameters={"n_epochs": 1},
            metadata={"round": str(number % 2)},
            extra_body={"ostler": {"adapter": "paged"}},
        )
        for number in range(5)
    ]
    ids = [job.id for job in made][::-1]
    assert [job.id for job in jobs.list(limit=2)][:5] == ids
    assert [job.id for job in jobs.list(after=ids[2], limit=1)][:2] == ids[3:]
    assert [job.id for job in jobs.list(metadata={"round": "1"}, limit=1)] == [ids[1], ids[3]]
    without = [job.id for job in jobs.list(extra_query={"metadata": "null"})]
    assert not set(without) & set(ids)
    for _ in range(2):
        jobs.pause(ids[0])
        jobs.resume(ids[0])
    told = [event.message for event in jobs.list_events(ids[0], limit=2)]
    assert told == ["The job was asked to resume", "The job was asked to pause"] * 2 + [
        f"Created fine-tuning job: {ids[0]}"
    ]
    for job_id in ids:
        jobs.cancel(job_id)


def _stop(client: openai.OpenAI, file_id: str) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=file_id, suffix="stopped")
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    paused: Any = jobs.pause(job.id).to_dict()
    assert (paused["status"], paused["ostler"]["state"]) == ("queued", "paused")
    resumed: Any = jobs.resume(job.id).to_dict()
    assert (resumed["status"], resumed["ostler"]["state"]) == ("queued", "queued")
    ended = jobs.cancel(job.id)
    FineTuningJob.model_validate(ended.to_dict(), strict=True)
    assert ended.status == "cancelled"
    assert ended.finished_at is not None
    assert jobs.cancel(job.id) == ended
    with pytest.raises(openai.ConflictError) as raised:
        client.with_options(max_retries=2).fine_tuning.jobs.resume(job.id)
    assert raised.value.code == "conflict"


def _refusals(client: openai.OpenAI, file_id: str) -> None:
    jobs = client.with_options(max_retries=2).fine_tuning.jobs
    with pytest.raises(openai.NotFoundError) as missing:
        jobs.retrieve("ftjob-0")
    assert missing.value.param == "fine_tuning_job_id"
    with pytest.raises(openai.NotFoundError) as unknown:
        jobs.create(model="gpt-4o-mini-2024-07-18", training_file=file_id)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        jobs.create(model="tiny", training_file="file-0", suffix="support")
    assert wrong.value.param == "training_file"
    graded: Any = {"type": "reinforcement", "reinforcement": {"grader": {}}}
    with pytest.raises(openai.BadRequestError, match="supervised"):
        jobs.create(model="tiny", training_file=file_id, suffix="support", method=graded)
    once: Any = {"extra_headers": {"Idempotency-Key": "once"}}
    job = jobs.create(model="tiny", training_file=file_id, suffix="once", **once)
    assert jobs.create(model="tiny", training_file=file_id, suffix="once", **once) == job
    with pytest.raises(openai.UnprocessableEntityError, match=job.id):
        jobs.create(model="tiny", training_file=file_id, suffix="twice", **once)
    jobs.cancel(job.id)


if __name__ == "__main__":
    main()
