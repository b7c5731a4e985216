"""The supervisor and its leash: restarts, health, logs, and that nothing outlives `ostler up`."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ostler import leash
from ostler.supervisor import (
    AlreadyRunning,
    Backoff,
    ChildEvent,
    ChildFailed,
    ChildSpec,
    Command,
    RotatingLog,
    Supervisor,
)
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
QUICK = Backoff(first_s=0.05, longest_s=0.2, reset_after_s=60)
FOREVER = ("sleep", "600")
DEAF = ("sh", "-c", 'trap "" TERM; exec sleep 600')  # what is ignored stays ignored in what is exec'ed

# Starts the command given as arguments, notes its own id and the other's, and waits.
PARENT = """
import os, subprocess, sys
detached = sys.argv[2] == "detached"
kid = subprocess.Popen(sys.argv[3:], start_new_session=detached, env={} if detached else None)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {kid.pid}")
os.replace(sys.argv[1] + ".new", sys.argv[1])
kid.wait()
"""
# An HTTP server that answers with its process id.
ENGINE = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
# A leash whose command ends just after the leash has looked whether it has, and before it waits for signals again.
UNLUCKY = """
import os, signal, sys, time
from ostler import leash
held = leash.Leash(1.0)
held.start(["sleep", "600"])
looks, really_look = [], held._reap
def look():
    really_look()
    looks.append(1)
    if len(looks) == 1:
        os.kill(held.child, signal.SIGKILL)
        while leash.read_stat(held.child):
            time.sleep(0.01)
held._reap = look
os.kill(os.getpid(), signal.SIGCHLD)
sys.exit(held.hold())
"""
UP = """
import asyncio, sys
from pathlib import Path
from ostler.supervisor import ChildSpec, Command, Supervisor
folder = Path(sys.argv[1])
spec = ChildSpec("tree", Command(tuple(sys.argv[2:])), folder / "log", settle_s=0, check_every_s=0.1, stop_grace_s=0.3)
asyncio.run(Supervisor([spec], folder).run(asyncio.Event()))
"""


def shell(script: str) -> Command:
    """A command for the shell."""
    return Command(("sh", "-c", script))


def parent_of(note: Path, *kid: str, detached: bool = False) -> Command:
    """A process with a child; a detached one has a session and an empty environment of its own."""
    return Command((sys.executable, "-I", "-S", "-c", PARENT, str(note), "detached" if detached else "close", *kid))


def child(tmp_path: Path, command: Command, **changes: Any) -> ChildSpec:
    """A child with short times; one without a check is healthy at once."""
    quick: dict[str, Any] = {"settle_s": 0.0, "check_every_s": 0.05, "stop_grace_s": 0.3, "backoff": QUICK}
    name = changes.pop("name", "child")
    return ChildSpec(name, command, tmp_path / "logs" / f"{name}.log", **(quick | changes))


class Run:
    """A supervisor at work, and what it told."""

    def __init__(self, folder: Path, *specs: ChildSpec) -> None:
        self.events: list[ChildEvent] = []
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(Supervisor(specs, folder / "state", self.events.append).run(self.stop))

    def told(self, kind: str) -> list[ChildEvent]:
        """The events of one kind so far."""
        return [event for event in self.events if event.kind == kind]

    async def until_told(self, kind: str, times: int = 1) -> list[ChildEvent]:
        """The events of one kind, once there are so many."""
        await until(lambda: len(self.told(kind)) >= times)
        return self.told(kind)


@contextlib.asynccontextmanager
async def supervised(folder: Path, *specs: ChildSpec) -> AsyncIterator[Run]:
    """A running supervisor, which is stopped at the end."""
    run = Run(folder, *specs)
    try:
        yield run
    finally:
        run.stop.set()
        await run.task


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for the condition, and fails if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def noted(note: Path) -> list[psutil.Process]:
    """The processes that a `parent_of` command noted."""
    await until(note.exists)
    return [psutil.Process(int(pid)) for pid in note.read_text().split()]


def notes_member(pid_file: Path, process: psutil.Process) -> bool:
    """Whether the pid file names the process as one of the child's."""
    traces = leash.Traces.load(pid_file)
    return traces is not None and process.pid in [pid for pid, _ in traces.members]


def alive(process: psutil.Process) -> bool:
    """Whether the process runs; unreaped remains do not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that is none of the supervisor's business."""
    with subprocess.Popen(FOREVER) as process:
        yield psutil.Process(process.pid)
        process.kill()


@contextlib.asynccontextmanager
async def up(folder: Path, command: Command) -> AsyncIterator[psutil.Process]:
    """A supervisor in a process of its own."""
    folder.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", UP, str(folder), *command.argv, cwd=REPOSITORY)
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await asyncio.to_thread(leash.end_leftovers, folder)


async def test_pauses_grow(tmp_path: Path) -> None:
    """A child that dies again and again is restarted after pauses that double up to the longest."""
    run = Run(tmp_path, child(tmp_path, shell("sleep 0.01; exit 3"), settle_s=60, give_up_after=5))
    with pytest.raises(ChildFailed):
        await run.task
    assert [event.exit_code for event in run.told("died")] == [3] * 5
    assert [event.pause_s for event in run.told("restarting")] == [0.05, 0.1, 0.2, 0.2]


async def test_pauses_start_anew(tmp_path: Path) -> None:
    """The pause is the first one again after a child that was healthy for long enough, and it is never given up."""
    quick = Backoff(first_s=0.05, reset_after_s=0.01)
    async with supervised(tmp_path, child(tmp_path, shell("sleep 0.2"), backoff=quick, give_up_after=1)) as run:
        pauses = await run.until_told("restarting", 3)
    assert {event.pause_s for event in pauses} == {0.05}


async def test_gives_up(tmp_path: Path) -> None:
    """A child that was never healthy is given up after three deaths, with its last lines, and the others stop."""
    broken = child(tmp_path, shell("echo loading; echo no such model >&2; exit 1"), name="broken", settle_s=60)
    run = Run(tmp_path, child(tmp_path, Command(FOREVER), name="good"), broken)
    with pytest.raises(ChildFailed) as failure:
        await run.task
    assert (failure.value.name, failure.value.exit_code) == ("broken", 1)
    assert failure.value.log_tail == ("loading", "no such model")
    assert [event.name for event in run.told("stopped")] == ["good"]
    assert len(run.told("died")) == 3


async def test_unknown_program(tmp_path: Path) -> None:
    """A program that is not there is reported by its name, with exit code 127."""
    run = Run(tmp_path, child(tmp_path, Command(("no-such-program",)), settle_s=60, give_up_after=1))
    with pytest.raises(ChildFailed) as failure:
        await run.task
    assert failure.value.exit_code == 127
    assert failure.value.log_tail == ("cannot start no-such-program: No such file or directory",)


async def test_health_gate(tmp_path: Path) -> None:
    """A child is healthy only once its check says so; a check that raises says no."""
    ready = tmp_path / "ready"
    checks = 0

    async def check() -> bool:
        nonlocal checks
        checks += 1
        return ready.read_text() == "yes"

    async with supervised(tmp_path, child(tmp_path, Command(FOREVER), is_healthy=check)) as run:
        await until(lambda: checks >= 2)
        assert not run.told("healthy")
        ready.write_text("yes")
        await run.until_told("healthy")


async def test_silent_child_is_restarted(tmp_path: Path) -> None:
    """A child that lives but stops answering is ended and started again, and the reason is told."""
    answers = True

    async def check() -> bool:
        return answers

    spec = child(tmp_path, Command(FOREVER), is_healthy=check, unhealthy_after_s=0.1)
    async with supervised(tmp_path, spec) as run:
        await run.until_told("healthy")
        answers = False
        (died,) = await run.until_told("died")
        answers = True
        await run.until_told("healthy", 2)
    assert died.reason == "no healthy answer for 0.1 s"
    assert died.exit_code == 128 + signal.SIGTERM


async def test_start_timeout(tmp_path: Path) -> None:
    """A child that does not become healthy in time counts as one that could not be started."""

    async def check() -> bool:
        return False

    run = Run(tmp_path, child(tmp_path, Command(FOREVER), is_healthy=check, start_timeout_s=0.1, give_up_after=1))
    with pytest.raises(ChildFailed):
        await run.task
    assert run.told("died")[0].reason == "not healthy within 0.1 s of its start"


async def test_log_of_child(tmp_path: Path) -> None:
    """Both outputs of a child end up in its log, which never outgrows its limits."""
    script = (
        'echo started; i=0; while [ $i -lt 3000 ]; do echo "line $i of many" >&2; i=$((i+1)); done; echo end; sleep 600'
    )
    spec = child(tmp_path, shell(script), log_bytes=200_000, log_files=2)
    async with supervised(tmp_path, spec):
        await until(lambda: spec.log_path.exists() and spec.log_path.read_text().endswith("end\n"))
    lines = spec.log_path.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("started", "end", 3002)


def test_log_rotates(tmp_path: Path) -> None:
    """A full log becomes `.1`, the one before `.2`, and older ones are gone."""
    log = RotatingLog(tmp_path / "log", max_bytes=10, files=3)
    for number in range(8):
        log.write(f"line{number}\n".encode())
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["line7\n", "line6\n", "line5\n"]
    assert log.tail() == tuple(f"line{number}" for number in range(8))


def test_single_log_starts_over(tmp_path: Path) -> None:
    """Where one file is kept, a full one starts over."""
    log = RotatingLog(tmp_path / "log", max_bytes=10, files=1)
    log.write(b"first\n")
    log.write(b"second\n")
    assert (tmp_path / "log").read_text() == "second\n"


async def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child sees this process's environment with what its command adds and without what it drops."""
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.setenv("KEPT", "as it was")
    command = Command(("sh", "-c", 'echo "${SECRET-none} $KEPT $ADDED"; sleep 600'), {"ADDED": "too"}, ("SECRET",))
    spec = child(tmp_path, command)
    async with supervised(tmp_path, spec):
        await until(lambda: spec.log_path.exists() and spec.log_path.read_text() == "none as it was too\n")


async def test_niceness(tmp_path: Path) -> None:
    """A child that is to stand back does so, against other sessions too where Linux groups processes by session."""
    note = tmp_path / "note"
    script = f"nice > {note}; cat /proc/self/autogroup >> {note} 2>/dev/null; exec sleep 60"
    async with supervised(tmp_path, child(tmp_path, Command(("sh", "-c", script), niceness=7))):
        await until(lambda: note.exists() and len(note.read_text().splitlines()) == 1 + _groups_by_session())
    lines = note.read_text().splitlines()
    assert lines[0] == "7"
    assert all(line.endswith(" nice 7") for line in lines[1:])


def _groups_by_session() -> bool:
    return Path("/proc/self/autogroup").exists()


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("kid", [FOREVER, DEAF], ids=["obeys", "deaf"])
async def test_stop_ends_grandchildren(tmp_path: Path, kid: tuple[str, ...], detached: bool) -> None:
    """After a stop nothing is left, neither what ignores SIGTERM nor what has a session of its own."""
    spec = child(tmp_path, parent_of(tmp_path / "note", *kid, detached=detached))
    async with supervised(tmp_path, spec) as run:
        processes = await noted(tmp_path / "note")
        assert all(map(alive, processes))
    assert not any(map(alive, processes))
    assert run.events[-1].kind == "stopped"
    assert not list((tmp_path / "state").glob("*.json"))


async def test_deaf_child_is_killed(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed after its grace period."""
    async with supervised(tmp_path, child(tmp_path, Command(DEAF))) as run:
        (started,) = await run.until_told("started")
        assert started.pid
        tree = psutil.Process(started.pid)
        await until(tree.children)
        kids = tree.children()
    assert not any(map(alive, [tree, *kids]))


async def test_stops_in_reverse_order(tmp_path: Path) -> None:
    """Children stop one by one, the last of the list first."""
    specs = [child(tmp_path, Command(FOREVER), name=name) for name in ("engine", "gateway", "monitor")]
    async with supervised(tmp_path, *specs) as run:
        await run.until_told("healthy", 3)
    assert [event.name for event in run.told("stopped")] == ["monitor", "gateway", "engine"]


async def test_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    """A supervisor whose task is cancelled stops its children first."""
    run = Run(tmp_path, child(tmp_path, parent_of(tmp_path / "note", *FOREVER)))
    processes = await noted(tmp_path / "note")
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    assert not any(map(alive, processes))


async def test_killed_command(tmp_path: Path) -> None:
    """What a killed command had started is ended before the command is started again."""
    note = tmp_path / "note"
    async with supervised(tmp_path, child(tmp_path, parent_of(note, *FOREVER, detached=True))) as run:
        command, kid = await noted(note)
        command.kill()
        (died,) = await run.until_told("died")
        assert died.exit_code == 128 + signal.SIGKILL
        assert not alive(kid)
        await run.until_told("healthy", 2)


async def test_replicas_come_back_one_by_one(tmp_path: Path) -> None:
    """Of two servers the one that is killed is started again, on its own port, and the other one never stops."""
    ports = {f"engine-{number}": free_port() for number in (0, 1)}
    specs = [
        child(tmp_path, Command((sys.executable, "-c", ENGINE, str(port))), name=name, is_healthy=answers(port))
        for name, port in ports.items()
    ]
    async with supervised(tmp_path, *specs) as run:
        await run.until_told("healthy", 2)
        for times, (name, port) in enumerate(ports.items(), start=1):
            os.kill(int(await fetch(port)), signal.SIGKILL)
            await run.until_told("died", times)
            await run.until_told("healthy", 2 + times)
            assert [event.name for event in run.told("died")][-1] == name
    assert len(run.told("started")) == 4


async def test_a_death_in_the_middle_of_a_check_is_seen_at_once(tmp_path: Path) -> None:
    """At whichever moment of it: the check ends with the process, a few turns of the event loop sooner or later."""
    deaths = 8

    async def answers_until_death() -> bool:
        (pid,) = [event.pid for event in run.told("started")][-1:]
        if len(run.told("healthy")) < len(run.told("started")):
            return True
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(pid or 0)
        loop.add_reader(descriptor, ended.set)
        waits.set()
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        for _ in range(len(run.told("died"))):
            await asyncio.sleep(0)
        raise ConnectionResetError

    waits = asyncio.Event()
    spec = child(tmp_path, Command(FOREVER), is_healthy=answers_until_death, check_every_s=0.0)
    async with supervised(tmp_path, spec) as run:
        for times in range(1, deaths + 1):
            async with asyncio.timeout(30):
                await waits.wait()
            waits.clear()
            os.kill(run.told("started")[-1].pid or 0, signal.SIGKILL)
            await until(lambda times=times: len(run.told("died")) == times, 10)  # type: ignore[misc]
    assert {event.reason for event in run.told("died")} == {None}  # nobody but the kernel ended it


async def fetch(port: int) -> str:
    """What the server on the port answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        return (await reader.read()).decode().rpartition("\r\n")[2]


def answers(port: int) -> Callable[[], Awaitable[bool]]:
    """A check of the server on the port."""

    async def check() -> bool:
        return bool(await fetch(port))

    return check


async def test_killed_leash(tmp_path: Path) -> None:
    """When the leash is killed, the command and what it started are ended, and the command is started again."""
    note = tmp_path / "note"
    async with supervised(tmp_path, child(tmp_path, parent_of(note, *FOREVER, detached=True))) as run:
        command, kid = await noted(note)
        await until(lambda: notes_member(tmp_path / "state" / "child.pid.json", kid))
        (started,) = run.told("started")
        assert started.pid
        os.kill(started.pid, signal.SIGKILL)
        await run.until_told("died")
        assert not alive(command)
        assert not alive(kid)
        await run.until_told("healthy", 2)


def test_an_end_between_two_looks_is_seen() -> None:
    """The leash passes it on, though its signal came while another one was being heard."""
    command = [sys.executable, "-c", UNLUCKY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
        try:
            assert process.wait(20) == 128 + signal.SIGKILL
        finally:
            process.kill()


async def test_killed_supervisor(tmp_path: Path) -> None:
    """When `up` is killed, its children and theirs are gone soon after, by themselves."""
    async with up(tmp_path, parent_of(tmp_path / "note", *DEAF, detached=True)) as supervisor:
        processes = await noted(tmp_path / "note")
        supervisor.kill()
        await until(lambda: not any(map(alive, processes)), 5)


async def test_everything_killed(tmp_path: Path) -> None:
    """When `up` and the leash are killed at once, the next start ends what they could not."""
    async with up(tmp_path, parent_of(tmp_path / "note", *FOREVER, detached=True)) as supervisor:
        command, kid = await noted(tmp_path / "note")
        await until(lambda: notes_member(tmp_path / "tree.pid.json", kid))
        (holder,) = supervisor.children()
        for step, process in ((signal.SIGSTOP, holder), (signal.SIGKILL, supervisor), (signal.SIGKILL, holder)):
            process.send_signal(step)
        await until(lambda: not alive(command))
        assert alive(kid)
        assert await asyncio.to_thread(leash.end_leftovers, tmp_path) == ["tree"]
        assert not alive(kid)
        assert not list(tmp_path.glob("*.json"))


def start_time(process: psutil.Process) -> int:
    """The process's start time as a pid file notes it."""
    stat = leash.read_stat(process.pid)
    assert stat
    return stat.start_time


def test_recycled_process_id(tmp_path: Path, bystander: psutil.Process) -> None:
    """A process that merely has the id of an earlier one is not touched."""
    earlier = (bystander.pid, start_time(bystander) - 1)
    leash.Traces("0" * 32, earlier, (earlier,)).save(tmp_path / "engine.pid.json")
    assert leash.end_leftovers(tmp_path) == []
    assert alive(bystander)
    assert not list(tmp_path.iterdir())


def test_pid_file_of_an_earlier_boot(tmp_path: Path, bystander: psutil.Process) -> None:
    """A pid file from before the machine's last start, or a damaged one, names nobody."""
    path = tmp_path / "engine.pid.json"
    leash.Traces("0" * 32, (bystander.pid, start_time(bystander))).save(path)
    path.write_text(path.read_text().replace('"boot": "', '"boot": "0'))
    (tmp_path / "gateway.pid.json").write_text("{")
    assert leash.end_leftovers(tmp_path) == []
    assert alive(bystander)


def test_leftover_is_ended(tmp_path: Path, bystander: psutil.Process) -> None:
    """A process is a leftover if its id and its start time are those that were noted."""
    noted_one = (bystander.pid, start_time(bystander))
    leash.Traces("0" * 32, (1, 0), (noted_one,)).save(tmp_path / "engine.pid.json")
    assert leash.end_leftovers(tmp_path) == ["engine"]
    assert not alive(bystander)


async def test_one_supervisor_per_folder(tmp_path: Path) -> None:
    """A second supervisor of the same state folder is refused and leaves the first one's children alone."""
    async with supervised(tmp_path, child(tmp_path, Command(FOREVER))) as run:
        await run.until_told("healthy")
        with pytest.raises(AlreadyRunning):
            await Supervisor([], tmp_path / "state").run(asyncio.Event())
        assert not run.told("died")


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)])
def test_leash_passes_the_exit_code_on(script: str, code: int) -> None:
    """The leash exits as its command did, with 128 and the signal's number for one that a signal ended."""
    command = [sys.executable, "-I", "-S", str(leash.__file__), "--", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(10) == code
