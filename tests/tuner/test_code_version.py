"""Which code runs."""

import subprocess
from pathlib import Path

from tuner.code_version import CodeVersion, code_on_disk, installed_version


def test_code_in_its_repository_has_a_commit(tmp_path: Path) -> None:
    """And whether files were changed since; elsewhere there is the version alone."""
    assert code_on_disk(tmp_path) == CodeVersion(installed_version("ostler"))

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=ann", "-c", "user.email=ann@example.com")
        command = ("git", *who, "-C", str(tmp_path), *arguments)
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    file = tmp_path / "code.py"
    file.write_text("one")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    first = git("rev-parse", "HEAD")
    assert code_on_disk(tmp_path) == CodeVersion(installed_version("ostler"), first, changed=False)
    file.write_text("two")
    assert code_on_disk(tmp_path) == CodeVersion(installed_version("ostler"), first, changed=True)


def test_a_package_that_is_missing_has_no_version() -> None:
    """It is left out of a lineage."""
    assert installed_version("no-such-package") is None
