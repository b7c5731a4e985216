"""Holds the locks against published vulnerabilities without a network: `audit.py ADVISORIES.zip LOCK...`.

The advisories are OSV's export of the ecosystem PyPI: a zip of one JSON file each. Exit codes: 0 nothing was found,
1 something was, 2 the files cannot be read, or none are named.
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

USAGE = "usage: audit.py ADVISORIES.zip LOCK...; docs/releasing.md says where the advisories come from\n"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
FEWEST = 1000
"""An export with fewer advisories is no export of a whole ecosystem, and finding nothing in it says nothing."""


@dataclass(frozen=True, order=True)
class Finding:
    """A locked version that an advisory names."""

    package: str
    version: str
    advisory: str
    summary: str
    fixed: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Print what was found; the exit code."""
    if len(arguments) < 2:
        sys.stderr.write(USAGE)
        return 2
    archive, *locks = arguments
    try:
        locked = {pin for lock in locks for pin in pins(Path(lock).read_text())} | set(pins_beside_the_locks())
        advisories = list(read(Path(archive)))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"error: {error}\n{USAGE}")
        return 2
    if len(advisories) < FEWEST:
        sys.stderr.write(f"error: {archive} has only {len(advisories)} advisories; it is no export of PyPI's\n")
        return 2
    found = sorted(findings(locked, advisories))
    for finding in found:
        fixed = f"; fixed in {', '.join(finding.fixed)}" if finding.fixed else "; no fix is known"
        sys.stdout.write(f"{finding.package} {finding.version}: {finding.advisory}: {finding.summary}{fixed}\n")
    sys.stdout.write(f"{len(locked)} locked versions, {len(advisories)} advisories, {len(found)} found\n")
    return 1 if found else 0


def pins(lock: str) -> Iterator[tuple[str, str]]:
    """The name and version of each line of a lock."""
    for line in lock.splitlines():
        if "==" in line and not line.startswith(("#", " ", "-")):
            requirement = Requirement(line.partition("#")[0].rstrip(" \\"))
            (specifier,) = requirement.specifier
            yield canonicalize_name(requirement.name), specifier.version


def pins_beside_the_locks() -> Iterator[tuple[str, str]]:
    """What is installed before the locks: torch."""
    return pins("\n".join(re.findall(r'"(torch==[^"]+)"', PROJECT.read_text())))


def read(archive: Path) -> Iterator[dict[str, Any]]:
    """The advisories that were not withdrawn."""
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name.endswith(".json"):
                advisory: dict[str, Any] = json.loads(opened.read(name))
                if not advisory.get("withdrawn"):
                    yield advisory


def findings(locked: set[tuple[str, str]], advisories: list[dict[str, Any]]) -> Iterator[Finding]:
    """Each locked version that an advisory affects."""
    versions: dict[str, list[str]] = {}
    for name, version in locked:
        versions.setdefault(name, []).append(version)
    for advisory in advisories:
        summary = " ".join(str(advisory.get("summary") or advisory.get("details", "")).split())[:120]
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            if package.get("ecosystem") == "PyPI":
                for version in versions.get(canonicalize_name(package["name"]), ()):
                    if affects(affected, version):
                        yield Finding(package["name"], version, advisory["id"], summary, tuple(_fixes(affected)))


def affects(affected: dict[str, Any], version: str) -> bool:
    """Whether a version is listed, or lies in a range; what is no version is taken for affected."""
    if version in affected.get("versions", ()):
        return True
    ranges = [each["events"] for each in affected.get("ranges", ()) if each.get("type") == "ECOSYSTEM"]
    try:
        return any(_lies_in(events, Version(version)) for events in ranges)
    except InvalidVersion:
        return True


def _lies_in(events: list[dict[str, str]], version: Version) -> bool:
    """Go through the events in order: each begins or ends what is affected, from its version on."""
    inside = False
    for kind, at in sorted(((kind, Version(at)) for event in events for kind, at in event.items()), key=lambda e: e[1]):
        if kind == "introduced" and at <= version:
            inside = True
        elif (kind == "fixed" and at <= version) or (kind == "last_affected" and at < version):
            inside = False
    return inside


def _fixes(affected: dict[str, Any]) -> Iterator[str]:
    for each in affected.get("ranges", ()):
        if each.get("type") == "ECOSYSTEM":
            yield from (event["fixed"] for event in each["events"] if "fixed" in event)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
