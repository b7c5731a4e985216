"""The commands of going back and restoring end all that trains, with stand-ins for `kubectl` and `helm`."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.docs.blocks import DOCS
from tests.helm.chart import rendered

KUBECTL = """#!/bin/sh
echo "kubectl $*" >>told
case "$*" in
  *"get deployments"*) printf 'ostler-gateway      3\\nostler-monitor      1\\nostler-tuner-main   2\\n' ;;
  api-resources*) printf 'jobs.batch\\ncronjobs.batch\\n'; cat more ;;
esac
"""
TRAIN_JOBS = "trainjobs.trainer.kubeflow.org\n"
OWN_JOBS = "-l app.kubernetes.io/managed-by=ostler-tuner"


def block(page: str, heading: str, words: str) -> str:
    """The commands under a heading that hold some words."""
    section = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\w*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (found,) = (each for each in blocks if words in each)
    return str(found)


def told(folder: Path, commands: str, more: str) -> list[str]:
    """What `kubectl` and `helm` are told where the cluster has `more` resources than Kubernetes' own."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "helm").write_text('#!/bin/sh\necho "helm $*" >>told\n')
    for name in ("kubectl", "helm"):
        (folder / name).chmod(0o755)
    (folder / "more").write_text(more)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    script = "set -euo pipefail\n" + commands.replace("REVISION", "1")
    subprocess.run(["bash", "-c", script], cwd=folder, env=environment, check=True)
    return (folder / "told").read_text().splitlines()


@pytest.mark.parametrize(("more", "kinds"), [("", "jobs.batch"), (TRAIN_JOBS, f"jobs.batch,{TRAIN_JOBS.strip()}")])
@pytest.mark.parametrize(
    ("page", "heading", "words"),
    [("kubernetes.md", "Go back", "migrations.to"), ("backup.md", "On Kubernetes", "replicas.txt")],
)
def test_all_that_trains_is_gone_before_the_database_goes_back(
    tmp_path: Path, page: str, heading: str, words: str, more: str, kinds: str
) -> None:
    """TrainJobs where the cluster has any, when nobody makes them anew, and with their pods."""
    lines = told(tmp_path, block(page, heading, words), more)
    (deleted,) = (at for at, line in enumerate(lines) if " delete " in line)
    assert lines[deleted] == f"kubectl -n ostler delete {kinds} --cascade=foreground --timeout=5m {OWN_JOBS}"
    (waited,) = (at for at, line in enumerate(lines) if " wait --for=delete pod " in line)
    assert waited < deleted
    assert re.search(r"component in \(.*\bmonitor, tuner\)", lines[waited])
    after = [line for line in lines[deleted:] if line.startswith("helm")]
    assert after, "the schema goes back, or the newer program starts, only then"


def test_a_restore_brings_back_as_many_as_there_were(tmp_path: Path) -> None:
    """Of each, tuners too."""
    lines = told(tmp_path, block("backup.md", "On Kubernetes", "replicas.txt"), "")
    scaled = [shlex.split(line)[3:] for line in lines if " scale " in line]
    (down, *up) = scaled
    assert down[:3] == ["scale", "deployment", "--replicas=0"]
    numbers = {"ostler-gateway": 3, "ostler-monitor": 1, "ostler-tuner-main": 2}
    assert up == [["scale", "deployment", name, f"--replicas={number}"] for name, number in numbers.items()]


def test_what_is_named_by_labels_is_what_the_chart_makes() -> None:
    """Each deployment that writes, with the labels of its release and its component."""
    for page in ("kubernetes.md", "backup.md"):
        text = (DOCS / page).read_text()
        (components,) = set(re.findall(r"instance=ostler, app.kubernetes.io/component in \(([^)]*)\)", text))
        made = {
            each["metadata"]["labels"]["app.kubernetes.io/component"]
            for each in rendered("everything", release="ostler").of("Deployment")
            if each["metadata"]["labels"]["app.kubernetes.io/instance"] == "ostler"
        }
        assert set(components.split(", ")) <= made


def test_with_compose_every_tuner_is_stopped() -> None:
    """Whichever profile started it; one of a profile that is not named is not found."""
    services = yaml.safe_load((DOCS.parent / "compose.yaml").read_text())["services"]
    (line,) = re.findall(r"^docker compose (.*) stop (.*)$", (DOCS / "upgrading.md").read_text(), re.MULTILINE)
    tuners = {name for name, service in services.items() if name.startswith("tuner")}
    assert set(line[1].split()) == tuners | {"monitor"}
    assert set(line[0].split()) - {"--profile"} == {
        profile for name in tuners for profile in services[name]["profiles"]
    }


def test_a_backup_is_its_owners_alone() -> None:
    """The folder is closed to others, whoever made it before; git takes none of it."""
    text = (DOCS / "backup.md").read_text()
    assert "install -d -m 700 backup" in text
    assert "chmod 777" not in text
    assert text.count('run --rm -T --user "$(id -u)" -v "$PWD/backup:') == 2
    assert "backup/" in (DOCS.parent / ".gitignore").read_text().splitlines()
