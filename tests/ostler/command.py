"""Runs the `ostler` command in a process of its own, against a gateway before a fake engine."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import RunningGateway

DONE, REFUSED, MISUSED, UNREACHABLE = 0, 1, 2, 3


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        assert self.code == DONE, self.err
        return json.loads(self.out)

    def assert_failed(self, code: int, *says: str) -> None:
        """It must have failed with this code, nothing on stdout and one line on stderr that says this."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        for words in says:
            assert words in self.err


@dataclass(frozen=True)
class Cli:
    """Runs the command against one gateway."""

    gateway: RunningGateway
    folder: Path

    async def __call__(self, *arguments: str, **variables: str) -> Ran:
        """Run it; `variables` are environment variables, empty ones are left out."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("OSTLER_") and name != "COLUMNS"
        }
        own = {
            "OSTLER_URL": self.gateway.url,
            "OSTLER_API_KEY": self.gateway.key,
            "OSTLER_HOME": str(self.folder / "cli-home"),
            "XDG_CACHE_HOME": str(self.folder / "cli-cache"),
            **variables,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ostler", *arguments),
            env=kept | {name: value for name, value in own.items() if value},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ran(process.returncode, out.decode(), err.decode())

    def adapter(self, scale: float) -> str:
        """A PEFT folder to push."""
        return str(self.gateway.adapter_folder(scale))


def as_process(cli: Cli) -> Cli:
    """The same command in a process of its own, whatever `cli` runs it in."""
    return Cli(cli.gateway, cli.folder)
