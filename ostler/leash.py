"""Runs one command so that nothing of it outlives whoever asked for it. Linux only.

    python -I -S leash.py [--grace SECONDS] -- COMMAND...

The leash stands between `ostler up` and a child. Its standard input is a pipe from `up`: once that ends,
because `up` died in whatever way, or once SIGTERM or SIGINT arrives, the command is stopped. What happened
to whom:

    command ended or killed   the leash ends what is left of it and exits with its code, or 128 + signal
    `up` killed               end of file on the pipe: the leash stops the command
    leash killed              the kernel kills the command; `up` ends what the command had started
    all of them killed        the next `ostler up` ends what their pid file names (`end_leftovers`)

It needs only the standard library and is run by path, so it starts in some 30 ms. The exit code is 127 if the
command could not be started.
"""

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_GRACE_S = 8.0  # for what survives the command; vLLM needs some of it, or leaves 400 MB in /dev/shm
KILL_PATIENCE_S = 10.0  # a process in the kernel's uninterruptible sleep can outlive SIGKILL for any time
LOOK_AGAIN_S = 0.05
MARK_VARIABLE = "OSTLER_LEASH"  # children inherit it, so that what they started can be found
MARK_LENGTH = 32  # a random UUID in hex; anything shorter could be part of another one
PID_FILE_SUFFIX = ".pid.json"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What the kernel says about a live process; `start_time` in clock ticks since boot."""

    pid: int
    parent: int
    session: int
    start_time: int


def read_stat(pid: int) -> ProcessStat | None:
    """The process's facts, or None if there is none of that id or only its unreaped remains."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name comes second, in brackets, and may hold spaces and brackets itself.
    fields = line[line.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessStat(pid, parent=int(fields[1]), session=int(fields[3]), start_time=int(fields[19]))


def all_processes() -> Iterator[ProcessStat]:
    """Every live process that this one can see."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_stat(int(name))):
            yield stat


def descendants(roots: Iterable[int], processes: Iterable[ProcessStat]) -> list[int]:
    """Ids of the live children of these processes, their children and so on."""
    children: dict[int, list[int]] = {}
    for stat in processes:
        children.setdefault(stat.parent, []).append(stat.pid)
    found = [child for root in roots for child in children.get(root, ())]
    for each in found:  # grows while it is walked
        found.extend(children.get(each, ()))
    return found


def signal_each(pids: Iterable[int], number: int) -> None:
    """Sends a signal to each process that still exists and is ours."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_all(find: Callable[[], list[int]], grace_s: float, reap: Callable[[], object] = lambda: None) -> bool:
    """Ends what `find` finds: SIGTERM, and after `grace_s` seconds SIGKILL until nothing is found.

    `reap` is called on each round. False if something could not be killed within `KILL_PATIENCE_S`.
    """
    kill_at = time.monotonic() + grace_s
    signal_each(find(), signal.SIGTERM)
    while left := find():
        if time.monotonic() > kill_at + KILL_PATIENCE_S:
            return False
        if time.monotonic() >= kill_at:
            signal_each(left, signal.SIGKILL)
        reap()
        time.sleep(LOOK_AGAIN_S)
        reap()
    return True


@dataclass(frozen=True, slots=True)
class Traces:
    """What a child's processes are known by, even when their leash is gone.

    The mark in the environment is not enough: vLLM's engine processes overwrite theirs with a title. So those
    seen are noted with their start times, which tell them from later processes with the same id.
    """

    mark: str
    leash: tuple[int, int]  # process id and start time
    members: tuple[tuple[int, int], ...] = ()

    def find(self) -> list[int]:
        """Ids of those alive: noted or marked ones, the rest of their sessions, and what descends from these."""
        processes = list(all_processes())
        noted = {self.leash, *self.members}
        own = {each.pid for each in processes if (each.pid, each.start_time) in noted or _carries(each.pid, self.mark)}
        # A session's id is not given away again while one of its processes lives, so these sessions are ours.
        sessions = {each.session for each in processes if each.pid in own} - {0, os.getsid(0)}
        own |= {each.pid for each in processes if each.session in sessions}
        return sorted({*own, *descendants(own, processes)} - {os.getpid()})

    def seen_now(self) -> "Traces":
        """The same with the members that live now."""
        stats = (read_stat(pid) for pid in self.find())
        return Traces(self.mark, self.leash, tuple((stat.pid, stat.start_time) for stat in stats if stat))

    def save(self, path: Path) -> None:
        """Replaces the file in one step."""
        content = {"boot": _boot(), "mark": self.mark, "leash": self.leash, "members": self.members}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Traces | None":
        """What the file says, or None if it is damaged or from before the machine's last start."""
        try:
            content = json.loads(path.read_text())
            if content["boot"] != _boot() or len(content["mark"]) != MARK_LENGTH:
                return None
            pid, start_time = content["leash"]
            return cls(content["mark"], (pid, start_time), tuple((pid, start) for pid, start in content["members"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def end_leftovers(folder: Path, grace_s: float = 10.0) -> list[str]:
    """Ends what an earlier supervisor left behind; returns the children's names. Blocks, so call it in a thread.

    A leash that still lives gets `grace_s` seconds to stop its command in order.
    """
    ended = []
    for path in sorted(folder.glob(f"*{PID_FILE_SUFFIX}")):
        traces = Traces.load(path)
        if traces and traces.find():
            ended.append(path.name.removesuffix(PID_FILE_SUFFIX))
            _stop_leash(traces.leash, grace_s + LEFTOVER_GRACE_S)
            end_all(traces.find, LEFTOVER_GRACE_S)
        path.unlink(missing_ok=True)
    return ended


def _stop_leash(identity: tuple[int, int], patience_s: float) -> None:
    def lives() -> bool:
        stat = read_stat(identity[0])
        return stat is not None and stat.start_time == identity[1]

    give_up_at = time.monotonic() + patience_s
    if lives():
        signal_each([identity[0]], signal.SIGTERM)
    while lives() and time.monotonic() < give_up_at:
        time.sleep(LOOK_AGAIN_S)


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"{MARK_VARIABLE}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Leash:
    """Holds one command. As subreaper it inherits every process of the command that loses its parent."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.child = -1
        self.process: subprocess.Popen[bytes] | None = None
        self.status: int | None = None
        self.wakeup = _wake_on_signals()

    def start(self, command: list[str]) -> None:
        """Starts the command in a process group of its own; OSError if it cannot be started."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        leash = os.getpid()

        def die_with_the_leash() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != leash:  # it died before the line above
                os._exit(1)

        # Kept, because a Popen that is thrown away waits for its process and takes the status with it.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_the_leash,  # noqa: PLW1509 (this program has one thread)
        )
        self.child = self.process.pid

    def hold(self) -> int:
        """Waits for the command's end or for the word to stop it; returns the exit code to pass on."""
        self._wait_for_end_or_word()
        if self.status is None:
            self._stop()
        end_all(self._what_is_left, min(self.grace_s, LEFTOVER_GRACE_S), self._reap)
        code = 1 if self.status is None else os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else 128 - code

    def _wait_for_end_or_word(self) -> None:
        poll = select.poll()
        poll.register(sys.stdin.fileno(), select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        while self.status is None:
            ready = [fd for fd, _ in poll.poll()]
            # Read before anything is reaped: a child that ends in between wakes it again.
            is_told = self.wakeup in ready and self._told_to_stop()
            self._reap()
            if is_told:
                return
            if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 4096):
                # Our siblings end now, too, so what the command would still serve comes to nothing.
                self.grace_s = min(self.grace_s, LEFTOVER_GRACE_S)
                return

    def _told_to_stop(self) -> bool:
        return not set(STOP_SIGNALS).isdisjoint(os.read(self.wakeup, 4096))

    def _stop(self) -> None:
        """Asks the command's group to end, and after the grace period makes the command do so."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, signal.SIGTERM)
        kill_at = time.monotonic() + self.grace_s
        poll = select.poll()
        poll.register(self.wakeup, select.POLLIN)
        self._reap()
        while self.status is None and (left_s := kill_at - time.monotonic()) > 0:
            if poll.poll(left_s * 1000):
                os.read(self.wakeup, 4096)
            self._reap()
        if self.status is None:
            signal_each([self.child], signal.SIGKILL)

    def _what_is_left(self) -> list[int]:
        return descendants([os.getpid()], all_processes())

    def _reap(self) -> None:
        """Collects every ended child, its own or inherited, and keeps the command's status."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.child:
                    self.status = ended[1]


def _wake_on_signals() -> int:
    """A file descriptor that turns readable on each signal of interest, with the signal's number as a byte."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def stand_back(niceness: int) -> None:
    """Lowers the priority of this process and of all that it starts.

    Where Linux groups processes by session (sched_autogroup), niceness counts within a session alone, and it is the
    group that must stand back, or a busy session holds up the others for seconds.
    """
    if niceness > 0:
        os.nice(niceness)
        with contextlib.suppress(OSError):  # no such groups here
            Path("/proc/self/autogroup").write_text(str(niceness))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line's command on a leash; returns the exit code."""
    parser = argparse.ArgumentParser(prog="leash", description="Runs a command that ends when this one's input does.")
    parser.add_argument("--grace", type=float, default=10.0, metavar="SECONDS", help="from SIGTERM to SIGKILL")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="how far to stand back for others, 0 to 19")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    leash = Leash(options.grace)
    stand_back(options.nice)
    try:
        leash.start(options.command)
    except OSError as exc:
        print(f"cannot start {options.command[0]}: {exc.strerror}", file=sys.stderr)
        return 127
    return leash.hold()


if __name__ == "__main__":
    sys.exit(main())
