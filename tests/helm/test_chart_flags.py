"""What may be said to vLLM beside the chart's own arguments, and what would contradict the objects around it."""

import shlex
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import Rendered, objects_of, template, value_file

# Short names, families, and beginnings of names, which vLLM takes for the names.
REFUSED = {
    "-tp=4": "-tp=4 is given by the chart",
    "--tensor-par=4": "--tensor-par=4 is given by the chart",
    "--pipeline_parallel_size=2": "--pipeline_parallel_size needs GPUs that the pod does not ask for",
    "-pp=2": "-pp needs GPUs that the pod does not ask for",
    "-dpl": "-dpl needs GPUs that the pod does not ask for",
    "--data-parallel-size=2": "--data-parallel-size needs GPUs that the pod does not ask for",
    "--nnodes=2": "--nnodes goes over several machines",
    "--api-key=secret": "--api-key wants a key of gateways",
    "--root-path=/x": "--root-path puts another path",
    "--ssl-keyfile=x": "--ssl-keyfile has vLLM speak TLS",
    "--uds=x": "--uds takes the HTTP away",
    "--config=x": "--config holds flags that the chart cannot see",
}
# Some begin like a refused one, or like one of the chart's own.
TAKEN = "--config-format hf --model-impl=auto --api-server-count 2 -q fp8 -dc {} --no-enable-prefix-caching"


def values_with(words: list[str], folder: Path) -> Path:
    """A file of values with these arguments for every engine."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump({"engines": {"defaults": {"extraArgs": words}}}))
    return file


@pytest.mark.parametrize(("word", "said"), REFUSED.items())
def test_flags_that_the_objects_contradict_are_refused(word: str, said: str, tmp_path: Path) -> None:
    """Before a model is loaded for half an hour, with the reason; a secret is not said again."""
    ran = template("4", f"--values={value_file('smallest')}", f"--values={values_with([word], tmp_path)}")
    assert ran.returncode != 0, f"{word} is taken"
    assert f'engines.pools: extraArgs of pool "tiny": {said}' in ran.stderr
    assert "secret" not in ran.stderr


def test_all_other_flags_are_taken(tmp_path: Path) -> None:
    """As they are, after the chart's own."""
    words = shlex.split(TAKEN)
    ran = template("4", f"--values={value_file('smallest')}", f"--values={values_with(words, tmp_path)}")
    assert ran.returncode == 0, ran.stderr
    (engine,) = (pods for pods in Rendered(objects_of(ran.stdout), {}).workloads if pods.component == "engine")
    container = next(each for each in engine.containers if each["name"] == "engine")
    assert container["args"][-len(words) :] == words
