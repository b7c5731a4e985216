"""Commands about tuning jobs: list them, look at one, follow it, and say what is to become of it."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from ostler import following, render, tuning
from ostler.client import AdminClient
from ostler.options import Json, Key, Url, show
from ostler.reports import show_report

INTERRUPTED = 130
_NONE = "No tuning jobs yet: `ostler tune NAME`."


class State(StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    VALIDATING_FILES = "validating_files"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


Job = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="JOB", help="Go on from this one.")] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this adapter's.", show_default="all adapters'")
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.", show_default="any state")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List tuning jobs, newest first."""
    found = tuning.jobs(AdminClient(url, api_key), limit, after=after, adapter=adapter, state=state)
    nothing = _NONE if adapter is None and state is None else "No such tuning jobs."
    show(found, json, lambda answer: _table(answer, nothing))


def show_job(job_id: Job, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Show a job: how it stands, what it was asked to do, and what its gate said."""
    client = AdminClient(url, api_key)
    job = tuning.job(client, job_id)
    show(job, json, _details)
    if not json and (report := tuning.report_of(job)):
        show_report(report)


def follow(job_id: Job, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Follow a job until it has ended; exit code 1 if it did not succeed. With --json, its events as lines of JSON."""
    client = AdminClient(url, api_key)
    tuning.job(client, job_id)
    follow_to_the_end(client, job_id, json=json)


def cancel(job_id: Job, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Cancel a job for good; one at work stops within a step."""
    _ask(job_id, "cancel", "is cancelled", "will be cancelled within a step", json, AdminClient(url, api_key))


def pause(job_id: Job, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Pause a job; one at work stops within a step, with a checkpoint to go on from."""
    _ask(job_id, "pause", "is paused", "will be paused within a step", json, AdminClient(url, api_key))


def resume(job_id: Job, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Have a paused job go on."""
    _ask(job_id, "resume", "goes on", "goes on", json, AdminClient(url, api_key))


def follow_to_the_end(client: AdminClient, job_id: str, *, json: bool) -> None:
    """Follow a job and say how it ended, with an exit code that says so, too. An interrupt ends the following alone.

    Raises:
        typer.Exit: it did not succeed, or was not followed to its end.
    """
    try:
        job = following.follow(client, job_id, json=json)
    except KeyboardInterrupt:
        render.err.print(f"\nThe job goes on. To follow it again: ostler jobs follow {job_id}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if json:
        following.JsonLines().tell(job)
    else:
        if report := tuning.report_of(job):
            show_report(report)
        _tell_end(job)
    if job["status"] != "succeeded":
        raise typer.Exit(1)


def state_of(job: Any) -> str:
    """The state, with the stage of one at work, and what is wanted of it."""
    own = job["ostler"]
    if own["state"] not in ("validating_files", "running"):
        return str(own["state"])
    wanted = {"pause": ", to be paused", "cancel": ", to be cancelled"}.get(own["wanted"], "")
    return f"{own['state']}, {own['stage']}{wanted}"


def _ask(job_id: str, what: str, done: str, coming: str, json: bool, client: AdminClient) -> None:
    job = client.call("POST", tuning.jobs_path(client, job_id, what))
    settled = {"cancel": "cancelled", "pause": "paused"}.get(what, job["ostler"]["state"])
    words = done if job["ostler"]["state"] == settled else coming
    show(job, json, lambda job: render.out.print(f"{job['id']} {words}."))


def _tell_end(job: Any) -> None:
    """What to do next; why it failed was the last thing that the job said."""
    if job["status"] == "succeeded":
        name, _, number = job["fine_tuned_model"].rpartition("@")
        render.out.print(f"{job['fine_tuned_model']} passed. Make it live: ostler promote {name} {number}")
        return
    code = f" ({job['error']['code']})" if job["error"] else ""
    render.out.print(f"{job['id']}: {job['status']}{code}.")
    if (candidate := job["ostler"]["candidate"]) and (job["error"] or {}).get("code") == "rejected_by_gate":
        render.out.print(f"More of what its gate saw: ostler show {candidate} --report report.html")


def _table(answer: Any, nothing: str) -> None:
    rows = [
        (each["id"], each["ostler"]["adapter"], render.moment(each["created_at"]), _standing(each))
        for each in answer["data"]
    ]
    render.table(("JOB", "ADAPTER", "ASKED FOR", "STATE, RESULT"), rows, nothing)
    if answer["has_more"]:
        render.out.print(f"There are more: --after {answer['data'][-1]['id']} goes on.")


def _standing(job: Any) -> tuple[str, ...]:
    """The state, and below it what came of it, in few words; `show` has them all."""
    result = job["error"]["code"] if job["error"] else _result(job)
    return tuple(filter(None, (state_of(job), result)))


def _result(job: Any) -> str | None:
    """The model, or why there is none, or when there may be one."""
    if job["error"]:
        return f"{job['error']['code']}: {job['error']['message']}"
    expected = f"about {render.moment(job['estimated_finish'])}" if job["estimated_finish"] else None
    return job["fine_tuned_model"] or expected


def _details(job: Any) -> None:
    own, method = job["ostler"], job["method"]["type"]
    hyperparameters = job["method"][method]["hyperparameters"]
    given = {
        "state": state_of(job),
        "adapter": own["adapter"],
        "model": job["model"],
        "method": f"{method}, " + ", ".join(f"{name} {value}" for name, value in hyperparameters.items()),
        "files": ", ".join(filter(None, (job["training_file"], job["validation_file"]))),
        "asked for": render.moment(job["created_at"]),
        "reason": own["reason"],
        "metadata": ", ".join(f"{name}={value}" for name, value in (job["metadata"] or {}).items()),
        "finished": render.moment(job["finished_at"]),
        "trained tokens": job["trained_tokens"],
        "dataset": own["dataset"],
        "result": _result(job),
        "result file": ", ".join(job["result_files"]),
        "seed": job["seed"],
    }
    rows = [(name, value) for name, value in given.items() if value not in (None, "", "-")]
    render.table((job["id"], ""), rows, "")
