"""The values that the page on Kubernetes shows are values that the chart takes."""

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import ROOT, template, value_file

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def shown(heading: str) -> str:
    """The first block of YAML below a heading of the page."""
    below = PAGE.partition(f"\n{heading}\n")[2]
    found = re.search(r"^```yaml\n(.*?)^```$", below, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


@pytest.mark.parametrize(
    ("heading", "under"), [("**2. Values.**", None), ("## Monitoring", "external"), ("## Without the internet", None)]
)
def test_the_pages_values_are_taken(heading: str, under: str | None, tmp_path: Path) -> None:
    """By the schema and the templates: whoever copies them gets an installation."""
    file = tmp_path / "values.yaml"
    file.write_text(shown(heading))
    base = [f"--values={value_file(under)}"] if under else []
    ran = template("4", *base, f"--values={file}")
    assert ran.returncode == 0, ran.stderr


def test_the_air_gapped_example_is_the_one_that_is_tried() -> None:
    """The page and the file that the other tests render say the same."""
    assert yaml.safe_load(shown("## Without the internet")) == yaml.safe_load(value_file("airgapped").read_text())
