"""`ostler tune`, `jobs`, `datasets` and what the other commands say of versions that a tuner made."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ostler.client import AdminClient
from tests.conftest import RunningGateway
from tests.gateway.answers import new_key
from tests.ostler.command import DONE, MISUSED, REFUSED, UNREACHABLE, Cli, as_process
from tests.ostler.in_process import QuickCli
from tests.ostler.pretend_tuner import DIGEST, PretendTuner, tuner_of

INTERRUPTED = 130


@pytest.fixture
def cli(gateway: RunningGateway, tmp_path: Path) -> Cli:
    """The command, and a gateway without adapters."""
    return QuickCli(gateway, tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A file of rows."""
    file = tmp_path / "tickets.jsonl"
    row = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]}
    file.write_text(json.dumps(row) + "\n")
    return str(file)


@pytest.fixture
async def tuner(cli: Cli) -> AsyncIterator[PretendTuner]:
    """A tuner that does what tests want."""
    async with tuner_of(cli.gateway) as pretended:
        yield pretended


async def asked(cli: Cli, *arguments: str) -> Any:
    """The job that a command asked for."""
    return (await cli("tune", "support", *arguments, "--json")).json


async def files(cli: Cli) -> list[Any]:
    """The files that are there."""
    found: list[Any] = (await cli.gateway.http.get("/v1/files")).json()["data"]
    return found


async def test_a_job_is_asked_for_with_all_that_was_said(cli: Cli, data: str) -> None:
    """Flags stand where the API has them, and the file is the one that was named."""
    job = await asked(
        cli, "--data", data, "--epochs", "2", "--batch-size", "8", "--learning-rate-multiplier", "1.5", "--rank", "8",
        "--alpha", "32", "--quantization", "nf4", "--replay", "0.25", "--gate-scorer", "json_equality",
        "--gate-scorer", "exact_match", "--seed", "7", "--note", "tickets of May", "--set", "gate.least_gain=0.02",
        "--set", "stopping.patience=5", "--set", "near_duplicates=null", "--set", "personal_data=keep",
    )  # fmt: skip
    assert (job["status"], job["model"], job["seed"]) == ("queued", "tiny", 7)
    hyperparameters = job["method"]["supervised"]["hyperparameters"]
    assert hyperparameters == {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.5}
    own = job["ostler"]
    assert (own["adapter"], own["suffix"]) == ("support", "tickets of May")
    order = own["order"]
    assert (order["lora"]["rank"], order["lora"]["alpha"], order["lora"]["quantization"]) == (8, 32, "nf4")
    assert (order["data"]["replay_share"], order["data"]["near_duplicates"]) == (0.25, None)
    assert order["data"]["personal_data"] == "keep"
    assert order["stopping"]["patience"] == 5
    assert order["gate"]["least_gain"] == 0.02
    assert [each["scorer"] for each in order["gate"]["scorers"]] == ["json_equality", "exact_match"]
    (file,) = await files(cli)
    assert (file["id"], file["filename"], file["purpose"]) == (job["training_file"], "tickets.jsonl", "fine-tune")
    content = await cli.gateway.http.get(f"/v1/files/{file['id']}/content")
    assert content.text == Path(data).read_text()


async def test_a_file_is_fetched(cli: Cli, data: str, tmp_path: Path) -> None:
    """Byte for byte; what is not there is refused, and nothing is written."""
    file = (await asked(cli, "--data", data))["training_file"]
    copy = tmp_path / "copy.jsonl"
    assert (await cli("data", "get", file, "--out", str(copy))).code == DONE
    assert copy.read_bytes() == Path(data).read_bytes()
    none = tmp_path / "none"
    (await cli("data", "get", "file-none", "--out", str(none))).assert_failed(REFUSED, "404")
    assert not none.exists()
    (await cli("data", "get", file, "--out", str(tmp_path / "no" / "folder"))).assert_failed(MISUSED, "be written")


async def test_files_are_listed_and_deleted(cli: Cli, data: str) -> None:
    """Newest first, by purpose, and page by page; one that an open job needs is not deleted."""
    assert (await cli("data", "list")).out == "No files.\n"
    needed = await asked(cli, "--data", data)
    first = needed["training_file"]
    form = {"purpose": "evals", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    skills = {"file": ("skills.jsonl", b"{}")}
    second = (await cli.gateway.http.post("/v1/files", data=form, files=skills)).json()["id"]
    listed = (await cli("data", "list")).out
    assert listed.index(second) < listed.index(first)
    for words in ("tickets.jsonl", "fine-tune", "skills.jsonl", "evals", "2 B", "until 20"):
        assert words in listed
    of_purpose = (await cli("data", "list", "--purpose", "evals", "--json")).json
    assert [file["id"] for file in of_purpose["data"]] == [second]
    page = await cli("data", "list", "--limit", "1")
    assert f"--after {second} goes on" in page.out
    assert first in (await cli("data", "list", "--after", second)).out
    (await cli("data", "delete", first)).assert_failed(REFUSED, "409")
    assert (await cli("data", "delete", second)).out == f"{second} is deleted.\n"
    await cli("jobs", "cancel", needed["id"])
    assert (await cli("data", "delete", first, "--json")).json["deleted"] is True
    assert await files(cli) == []
    (await cli("data", "delete", first)).assert_failed(REFUSED, "404")


async def test_whose_version_it_is_has_one_place(cli: Cli, data: str) -> None:
    """`--set adapter` would make a version of another adapter than the one that was named; nothing is sent."""
    for said in ("adapter=other", "adapter.name=other", 'adapter="support"'):
        ran = await cli("tune", "support", "--data", data, "--set", said)
        ran.assert_failed(MISUSED, "the adapter is the first argument: ostler tune")
    assert await files(cli) == []


async def test_an_uploaded_file_is_named_by_its_id(cli: Cli, data: str) -> None:
    """Nothing is sent twice; validation has its own."""
    first = await asked(cli, "--data", data)
    again = await asked(cli, "--data", first["training_file"], "--validation", data)
    assert again["training_file"] == first["training_file"]
    assert again["validation_file"] not in (None, first["training_file"])
    assert len(await files(cli)) == 2


async def test_where_it_begins_can_be_said(two: Cli, data: str) -> None:
    """A new LoRA on the adapter's base, its stable version, or another one; preferences go on from these, too."""
    assert (await asked(two, "--data", data))["ostler"]["start_from"] is None
    assert (await asked(two, "--data", data, "--from", "stable"))["ostler"]["start_from"] == 1
    job = await asked(two, "--data", data, "--from", "2", "--method", "dpo", "--beta", "0.2")
    assert (job["ostler"]["start_from"], job["model"], job["method"]["type"]) == (2, "support@2", "dpo")
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    told = await two("tune", "support", "--data", data, "--base", "tiny")
    assert told.code == DONE
    assert "makes a version of support. Follow it: ostler jobs follow ftjob-" in told.out


async def test_a_tuning_key_is_enough(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """It sees the base model that it may name, and its jobs; reports of gates are an admin's."""
    key, _ = await new_key(cli.gateway, scopes=["tuning"])
    own = {"OSTLER_API_KEY": key}
    running = asyncio.create_task(cli("tune", "support", "--data", data, "--follow", **own))
    await tuner.claim()
    number = await tuner.register("support")
    await tuner.judge("support", number, passed=True, reason="all parts passed")
    ran = await running
    assert (ran.code, ran.err) == (DONE, "")
    assert ran.out.endswith("ostler promote support 1\n")
    assert "support@1" in (await cli("jobs", "list", **own)).out
    (await cli("show", "support@1", **own)).assert_failed(REFUSED, "403")


async def test_a_key_that_may_name_no_base_is_told_so(two: Cli, data: str) -> None:
    """Of a new adapter's; the base of one that serves is known, and it may be gone on from."""
    tune = ("tune", "fresh", "--data", data)
    secret, _ = await new_key(two.gateway, scopes=["tuning"], adapters=["support", "fresh"])
    (await two(*tune, OSTLER_API_KEY=secret)).assert_failed(MISUSED, "one of: none that this key may name")
    (await two("tune", "support", "--data", data, OSTLER_API_KEY=secret)).assert_failed(REFUSED, "tiny")
    assert (await two("tune", "support", "--data", data, "--from", "stable", OSTLER_API_KEY=secret)).code == DONE


async def test_of_several_bases_one_has_to_be_said(two: Cli, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a new adapter, with their names; the base of one that serves is its own."""
    call = AdminClient.call

    def with_another(self: AdminClient, method: str, path: str, **arguments: Any) -> Any:
        answer = call(self, method, path, **arguments)
        if path.endswith("/v1/models"):
            answer["data"].append({"id": "large", "parent": None})
        return answer

    monkeypatch.setattr(AdminClient, "call", with_another)
    (await two("tune", "fresh", "--data", data)).assert_failed(MISUSED, "--base of fresh, one of: large, tiny")
    assert (await asked(two, "--data", data))["model"] == "tiny"


async def test_what_is_refused_leaves_no_file_behind(cli: Cli, data: str) -> None:
    """And says why, in a line; a wrong command line before anything is sent."""
    wrong = ("--rank", "512"), ("--gate-scorer", "taste"), ("--from", "9"), ("--set", "gate.colour=red")
    for arguments, says in zip(wrong, ("512", "taste", "support@9", "colour"), strict=True):
        (await cli("tune", "support", "--data", data, *arguments)).assert_failed(REFUSED, says)
    missaid: tuple[tuple[tuple[str, ...], str], ...] = (
        (("--data", "/none.jsonl"), "cannot be read"),
        (("--data", data, "--from", "best"), "neither a version's number nor stable"),
        (("--data", data, "--set", "gate"), "KEY=VALUE"),
        (("--data", data, "--set", "gate.=1"), "KEY=VALUE"),
        (("--data", data, "--rank", "8", "--set", "rank.x=1"), "has no parts"),
    )
    for said, says in missaid:
        (await cli("tune", "support", *said)).assert_failed(MISUSED, says)
    (await cli("tune", "support", "--data", data, OSTLER_URL="http://127.0.0.1:1")).assert_failed(UNREACHABLE)
    assert await files(cli) == []


async def test_followed_to_its_success(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """What it said, its numbers, its gate's table, and how to go on; exit code 0."""
    running = asyncio.create_task(as_process(cli)("tune", "support", "--data", data, "--follow"))
    job = await tuner.claim()
    await tuner.freeze("support")
    for step in range(1, 251):
        await tuner.step(step, 250, 1 / step)
    number = await tuner.register("support")
    await tuner.judge("support", number, passed=True, reason="all parts passed")
    ran = await running
    assert ran.code == DONE, ran
    lines = ran.out.splitlines()
    assert lines[0] == f"{job.id} makes a version of support."
    assert f"Created fine-tuning job: {job.id}" in lines[1]
    numbers = [line for line in lines if line.startswith("step ")]
    last = "step 250/250: loss 0.0040, rate 2.00e-04, gradient 0.50, 1,234 tokens/s, 3.0 GB, 1:15 left"
    assert numbers[-1] == last
    assert len(numbers) < 10
    assert "The gate: passed. all parts passed" in ran.out
    assert "quality (exact_match)" in ran.out
    assert "support@1 is better than tiny: 0.900 against 0.600" in ran.out
    assert "only told" in ran.out
    assert lines[-1] == "support@1 passed. Make it live: ostler promote support 1"


async def test_followed_to_its_rejection(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """With the reason, and exit code 1; the version can then only be promoted by force and with a reason."""
    running = asyncio.create_task(cli("tune", "support", "--data", data, "--follow"))
    await tuner.claim()
    await tuner.freeze("support")
    number = await tuner.register("support")
    await tuner.judge("support", number, passed=False, reason="it refuses less than the base model")
    ran = await running
    assert ran.code == REFUSED
    assert "The gate: rejected. it refuses less than the base model" in ran.out
    assert "FAILED" in ran.out
    assert "failed (rejected_by_gate)." in ran.out
    assert "ostler show support@1 --report report.html" in ran.out
    job = (await cli("jobs", "list", "--json")).json["data"][0]["id"]
    assert "rejected_by_gate: it refuses less" in (await cli("jobs", "show", job)).out
    assert "rejected" in (await cli("show", "support")).out
    (await cli("promote", "support", "1")).assert_failed(REFUSED, "rejected by its gate")
    (await cli("promote", "support", "1", "--force")).assert_failed(MISUSED, "--reason")
    (await cli("canary", "support", "1", "--weight", "0.1", "--force", "-m", " ")).assert_failed(MISUSED, "--reason")
    forced = await cli("promote", "support", "1", "--force", "--reason", "the set of refusals is out of date")
    assert "support serves version 1" in forced.out
    assert "out of date" in (await cli("history", "support")).out


async def test_programs_follow_by_lines_of_json(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """Every event once and in order, then the job; the events' own pages do not matter."""
    running = asyncio.create_task(cli("tune", "support", "--data", data, "--follow", "--json"))
    job = await tuner.claim()
    for step in range(1, 451):
        await tuner.step(step, 450, 1.0)
    await tuner.jobs.end(job.id, "tuner-1", "cancelled", "The job was cancelled")
    ran = await running
    assert ran.code == REFUSED
    *events, last = map(json.loads, ran.out.splitlines())
    assert [event["data"]["step"] for event in events if event["type"] == "metrics"] == list(range(1, 451))
    assert len({event["id"] for event in events}) == len(events)
    assert (last["object"], last["status"]) == ("fine_tuning.job", "cancelled")


def hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, and so to these tests and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_an_interrupt_ends_the_following_alone(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """The job goes on, and the command says how to follow it again."""
    job = await asked(cli, "--data", data)
    await tuner.claim()
    own = {"OSTLER_URL": cli.gateway.url, "OSTLER_API_KEY": cli.gateway.key, "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ostler", "jobs", "follow", job["id"]),
        env=os.environ | own,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )
    assert process.stdout is not None
    assert b"Created" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == INTERRUPTED
    assert f"ostler jobs follow {job['id']}" in said.decode()
    assert (await cli("jobs", "show", job["id"], "--json")).json["ostler"]["state"] == "validating_files"


async def test_jobs_are_listed_and_shown(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """Newest first and page by page; one of them with what it was asked to do."""
    assert "No tuning jobs yet" in (await cli("jobs", "list")).out
    first, second = [(await asked(cli, "--data", data, "--epochs", "3"))["id"] for _ in range(2)]
    page = await cli("jobs", "list", "--limit", "1")
    assert second in page.out
    assert f"--after {second} goes on" in page.out
    assert first in (await cli("jobs", "list", "--after", second)).out
    await tuner.claim()
    shown = (await cli("jobs", "show", first)).out
    assert "validating_files, waiting" in shown
    assert "supervised, " in shown
    assert "n_epochs 3" in shown
    assert "queued" in (await cli("jobs", "show", second)).out
    (await cli("jobs", "show", "ftjob-none")).assert_failed(REFUSED, "404")
    (await cli("jobs", "follow", "ftjob-none")).assert_failed(REFUSED, "404")


async def test_a_job_says_why_it_was_asked_for(cli: Cli, data: str) -> None:
    """And what its asker wrote beside it, as the loop does."""
    first = await asked(cli, "--data", data)
    order: dict[str, Any] = {
        "model": "tiny",
        "training_file": first["training_file"],
        "metadata": {"cycle": "3", "decision": "17"},
    }
    order |= {"ostler": {"adapter": "support", "reason": "the world changed"}}
    job = (await cli.gateway.http.post("/v1/fine_tuning/jobs", json=order)).json()
    shown = (await cli("jobs", "show", job["id"])).out
    assert "the world changed" in shown
    assert "cycle=3, decision=17" in shown
    assert "metadata" not in (await cli("jobs", "show", first["id"])).out


async def test_jobs_are_listed_by_adapter_and_state(cli: Cli, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others lie between, and page by page."""
    monkeypatch.setattr("ostler.tuning._JOBS", 2)
    file = (await asked(cli, "--data", data))["training_file"]
    support = [(await cli("jobs", "list", "--json")).json["data"][0]["id"]]
    for _ in range(3):
        await cli("tune", "other", "--data", file)
    support.append((await asked(cli, "--data", file))["id"])
    await cli("jobs", "cancel", support[0])

    async def listed(*said: str) -> Any:
        return (await cli("jobs", "list", "--json", *said)).json

    found = await listed("--adapter", "support")
    assert ([job["id"] for job in found["data"]], found["has_more"]) == (support[::-1], False)
    first = await listed("--adapter", "support", "--limit", "1")
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (support[1:], True)
    assert first["last_id"] == support[1]
    then = await listed("--adapter", "support", "--limit", "1", "--after", support[1])
    assert ([job["id"] for job in then["data"]], then["has_more"]) == (support[:1], False)
    assert [job["id"] for job in (await listed("--state", "cancelled"))["data"]] == support[:1]
    assert len((await listed("--adapter", "other", "--state", "queued"))["data"]) == 3
    assert "No such tuning jobs." in (await cli("jobs", "list", "--adapter", "none")).out
    assert (await cli("jobs", "list", "--state", "asleep")).code == MISUSED


async def test_jobs_are_paused_resumed_and_cancelled(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """At once where nobody is at work on them, else it is said that it comes."""
    job = (await asked(cli, "--data", data))["id"]
    assert (await cli("jobs", "pause", job)).out == f"{job} is paused.\n"
    assert "paused" in (await cli("jobs", "list")).out
    assert (await cli("jobs", "resume", job)).out == f"{job} goes on.\n"
    await tuner.claim()
    assert (await cli("jobs", "pause", job)).out == f"{job} will be paused within a step.\n"
    assert "to be paused" in (await cli("jobs", "show", job)).out
    assert (await cli("jobs", "cancel", job)).out == f"{job} will be cancelled within a step.\n"
    await tuner.jobs.end(job, "tuner-1", "cancelled", "The job was cancelled")
    assert (await cli("jobs", "cancel", job)).out == f"{job} is cancelled.\n"
    (await cli("jobs", "resume", job)).assert_failed(REFUSED, "409")


async def test_a_version_is_shown_with_what_it_was_made_from(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """Its lineage, its gate, and the datasets of its adapter."""
    await asked(cli, "--data", data)
    await tuner.claim()
    await tuner.freeze("support")
    number = await tuner.register("support")
    at_gate = (await cli("show", "support@1")).out
    assert "at its gate" in at_gate
    await tuner.judge("support", number, passed=True, reason="all parts passed")
    shown = (await cli("show", "support@1")).out
    assert "passed its gate" in shown
    assert "hyperparameters.rank" in shown
    assert DIGEST[:12] in shown
    assert DIGEST not in shown
    assert "The gate: passed" in shown
    assert (await cli("show", "support@1", "--json")).json["lineage"]["dataset"] == DIGEST
    listed = (await cli("datasets", "support")).out
    for words in (DIGEST[:12], "1,200 train", "400 teacher", "after eeeeeeeeeeee", "ftjob-", "bad rows: file-1"):
        assert words in listed
    assert (await cli("datasets", "support", "--json")).json["data"][0]["counts"]["holdout"] == 100


async def test_a_gate_that_was_held_low_is_told(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """With the version, and to whoever has it serve; and which attempt on its holdout it was."""
    await asked(cli, "--data", data)
    await tuner.claim()
    await tuner.freeze("support")
    loosened = {
        "alpha": {"value": 0.49, "default": 0.05},
        "retention_margin": {"value": 1.0, "default": 0.1},
        "refusal_file": {"value": "file-7", "default": None},
    }
    number = await tuner.register("support")
    await tuner.judge("support", number, passed=True, reason="all passed", loosened=loosened, attempt=3)
    told = (
        "Its job asked for less than the defaults do: alpha 0.49 in place of 0.05, retention_margin 1 in place of 0.1, "
        "refusal_file file-7 in place of the tuner's own set.\n"
    )
    shown = (await cli("show", "support@1")).out
    assert told in shown
    assert "attempt 3 on this holdout" in shown
    promoted = await cli("promote", "support", "1")
    assert promoted.code == DONE
    assert promoted.out.startswith("support serves version 1")
    assert promoted.out.endswith(told)
    await cli.gateway.push("support", 3.0)
    assert (await cli("promote", "support", "2")).out == "support serves version 2 (revision 2).\n"
    assert (await cli("canary", "support", "1", "--weight", "0.1")).out.endswith(told)
    assert "defaults" not in (await cli("canary", "support", "--off")).out


async def test_a_tenant_reads_what_the_gate_saw(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """With a key for tuning that is no admin's: the verdict, its parts, and which sets were asked."""
    job = (await asked(cli, "--data", data))["id"]
    await tuner.claim()
    await tuner.freeze("support")
    await tuner.judge("support", await tuner.register("support"), passed=True, reason="all parts passed")
    secret, _ = await new_key(cli.gateway, scopes=["tuning"], adapters=["support", "tiny"])
    shown = (await cli("jobs", "show", job, OSTLER_API_KEY=secret)).out
    assert "The gate: passed. all parts passed" in shown
    assert "support@1 is better than tiny" in shown
    for words in ("Ostler's own", "205", "b" * 12):
        assert words in shown


async def test_history_says_what_was_forced(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """And so does the audit log: past which verdict, why, and by whom."""
    await asked(cli, "--data", data)
    await tuner.claim()
    await tuner.freeze("support")
    await tuner.judge("support", await tuner.register("support"), passed=False, reason="no better")
    assert (await cli("promote", "support", "1", "--force", "--reason", "the holdout is wrong")).code == DONE
    history = (await cli("history", "support")).out
    for words in ("the holdout is wrong", "forced: version 1 was rejected by its gate", "by test (key_"):
        assert words in history
    assert "forced past its gate: version 1 rejected" in (await cli("audit")).out


async def test_history_says_that_a_version_was_held_against_another(two: Cli, data: str, tuner: PretendTuner) -> None:
    """Its gate held it against the base model, while version 1 is live: it is promoted by force alone."""
    await asked(two, "--data", data)
    await tuner.claim()
    await tuner.freeze("support")
    await tuner.judge("support", await tuner.register("support"), passed=True, reason="all parts passed")
    (await two("promote", "support", "3")).assert_failed(REFUSED, "was held against the base model", "as a canary")
    assert (await two("promote", "support", "3", "--force", "--reason", "it is urgent")).code == DONE
    assert "forced: version 3 was held against another version" in (await two("history", "support")).out
    assert "forced past its gate: version 3 outdated" in (await two("audit")).out


async def test_tables_fit_100_columns(cli: Cli, data: str, tuner: PretendTuner) -> None:
    """Nothing of what is usual is cut off or folded."""
    job = (await asked(cli, "--data", data))["id"]
    await tuner.claim()
    await tuner.freeze("support")
    await tuner.note(estimated_finish=datetime(2026, 5, 1, tzinfo=UTC))
    await cli("jobs", "cancel", job)
    listed = (await cli("jobs", "list", COLUMNS="100")).out
    words = job, "support", "running, training, to be cancelled", "about 2026-0"
    number = await tuner.register("support")
    await tuner.judge("support", number, passed=False, reason="it refuses less than the base model")
    failed = (await cli("jobs", "list", COLUMNS="100")).out
    datasets = (await cli("datasets", "support", COLUMNS="100")).out
    made_of = "supervised: 1,200 train, 100 validation, 100 holdout", "labels: 1,000 uploaded, 400 teacher"
    for shown, all_of in ((listed, words), (failed, ("failed", "rejected_by_gate")), (datasets, made_of)):
        assert "…" not in shown
        for each in all_of:
            assert each in shown, shown


async def test_a_version_is_named_right(two: Cli, tmp_path: Path) -> None:
    """By its number; one that was pushed by hand has no gate, and so no page of it."""
    assert "pushed by hand" in (await two("show", "support@2")).out
    (await two("show", "support@9")).assert_failed(REFUSED, "404")
    (await two("show", "support@two")).assert_failed(MISUSED, "no version's number")
    (await two("show", "support", "--report", "x.html")).assert_failed(MISUSED, "of a version")
    page = tmp_path / "x.html"
    (await two("show", "support@2", "--report", str(page))).assert_failed(REFUSED, "404")
    assert not page.exists()


async def test_the_gates_page_is_saved(cli: Cli, data: str, tuner: PretendTuner, tmp_path: Path) -> None:
    """As the gateway has it."""
    await asked(cli, "--data", data)
    await tuner.claim()
    number = await tuner.register("support")
    registry = cli.gateway.registry
    page = registry.store.put_files({"report.html": b"<html>the gate</html>"}).digest
    said = {"passed": True, "reason": "all parts passed", "page": page}
    await registry.judge("support", number, passed=True, report=said, actor="tuner")
    file = tmp_path / "gate.html"
    assert (await cli("show", "support@1", "--report", str(file))).code == DONE
    assert file.read_bytes() == b"<html>the gate</html>"
