"""Runs an image as a container platform with strict rules would, without one: for `make check-images`.

The root file system is read-only, nothing on a tmpfs can be executed (Docker's default), the user is the image's own
and can gain no rights, and the process has its own process ids, so that what it starts with is process 1. The network
is that of who calls.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

STATE = "/var/lib/ostler"

# $1 root, $2 user, $3 group, then `SOURCE:TARGET:MODE` until `--`, then the command.
_ENTER = """
root=$1 user=$2 group=$3; shift 3
mount --bind "$root" "$root"
for file in hosts resolv.conf; do [ -e "$root/etc/$file" ] || touch "$root/etc/$file"; done
mount --bind /etc/hosts "$root/etc/hosts"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o noexec,nosuid,nodev,uid="$user",gid="$group" tmpfs "$root/var/lib/ostler"
while [ "$1" != -- ]; do
  IFS=: read -r source target mode <<<"$1"; shift
  mkdir -p "$root$target"
  mount --bind "$source" "$root$target"
  mount -o "remount,bind,$mode" "$root$target"
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid="$user" --regid="$group" --clear-groups --no-new-privs \
  --inh-caps=-all --bounding-set=-all env -i "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image, opened: its root and what it says of itself."""

    name: str
    root: Path
    user: str
    workdir: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    health_check: tuple[str, ...]

    @classmethod
    def opened(cls, name: str, buildah: Sequence[str]) -> "Image":
        """Mount an image of buildah's store, which stays mounted until the store is removed."""
        working = _output([*buildah, "from", "--pull-never", name])
        inspected = json.loads(_output([*buildah, "inspect", "--type", "image", name]))
        said = inspected["OCIv1"]["config"]
        return cls(
            name=name,
            root=Path(_output([*buildah, "mount", working])),
            user=said["User"],
            workdir=said["WorkingDir"],
            entrypoint=tuple(said["Entrypoint"]),
            command=tuple(said["Cmd"]),
            environment=tuple(said["Env"]),
            health_check=tuple(inspected["Docker"]["config"]["Healthcheck"]["Test"][1:]),
        )


@dataclass(frozen=True, slots=True)
class Container:
    """How an image is to be run: `mounts` are `SOURCE:TARGET:MODE`, with `rw` or `ro`."""

    image: Image
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()

    def start(self, *command: str, log: IO[bytes]) -> "Running":
        """Start what the image starts by itself, with other arguments if some are given."""
        return self._start((*self.image.entrypoint, *(command or self.image.command)), log)

    def run(self, *command: str, timeout_s: float = 120.0) -> str:
        """Run one command in it, in place of its entry point; its output.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return _output(self._argv(command), timeout_s)

    def _start(self, command: Sequence[str], log: IO[bytes]) -> "Running":
        return Running(self.image.name, subprocess.Popen(self._argv(command), stdout=log, stderr=log))

    def _argv(self, command: Sequence[str]) -> list[str]:
        user, group = self.image.user.split(":")
        said = (*self.image.environment, *(f"{name}={value}" for name, value in self.environment.items()))
        enter = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
        enter += ["bash", "-euc", _ENTER, "enter", str(self.image.root), user, group, *self.mounts, "--"]
        return [*enter, "-C", self.image.workdir, *said, *command]


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def is_up(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def stop(self, grace_s: float) -> int:
        """Send SIGTERM to its process 1 and wait; its exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        self._signal(signal.SIGTERM)
        return self.process.wait(grace_s)

    def kill(self) -> None:
        """End it at once, with all that it started."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        outside = self.process.pid
        [first] = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        os.kill(int(first), number)


def _output(argv: Sequence[str], timeout_s: float = 120.0) -> str:
    ran = subprocess.run(list(argv), stdout=subprocess.PIPE, check=True, timeout=timeout_s, text=True)
    return ran.stdout.strip()
