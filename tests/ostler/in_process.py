"""Runs the `ostler` command in a thread of the test's process: the same command, without a second of imports each."""

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ostler.cli import main
from tests.ostler.command import Cli, Ran


class QuickCli(Cli):
    """The command for tests that are not about its process."""

    _one_at_a_time: ClassVar = asyncio.Lock()
    """The arguments, the environment and where output goes are the whole process's."""

    async def __call__(self, *arguments: str, **variables: str) -> Ran:
        """Run it; `variables` are environment variables, empty ones are left out."""
        own = {
            "OSTLER_URL": self.gateway.url,
            "OSTLER_API_KEY": self.gateway.key,
            "OSTLER_HOME": str(self.folder / "cli-home"),
            "XDG_CACHE_HOME": str(self.folder / "cli-cache"),
            **variables,
        }
        async with self._one_at_a_time:
            return await asyncio.to_thread(_run, arguments, {name: value for name, value in own.items() if value})


def _run(arguments: tuple[str, ...], variables: Mapping[str, str]) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _as_process(arguments, variables):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert code is None or isinstance(code, int)
    return Ran(code or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_process(arguments: tuple[str, ...], variables: Mapping[str, str]) -> Iterator[None]:
    before, words = dict(os.environ), sys.argv
    for name in [name for name in os.environ if name.startswith("OSTLER_")]:
        del os.environ[name]
    os.environ.update(variables)
    sys.argv = ["ostler", *arguments]
    try:
        yield
    finally:
        sys.argv = words
        os.environ.clear()
        os.environ.update(before)
