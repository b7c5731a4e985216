"""The weights that ship: their files, and that the engine takes them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from demo import ADAPTERS, BASE_DIR, BASE_NAME, EXAMPLE_MESSAGE, Adapter
from registry.probes import distance, read_probes

DEMO = BASE_DIR.parent
MEGABYTE = 1_000_000
RECORD = json.loads((DEMO / "recipe.json").read_text())
SHIPPED = [path for folder in (BASE_DIR, DEMO / "adapters") for path in folder.rglob("*") if path.is_file()]

each_version = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda each: f"{each.name}@{each.version}")


def test_the_base_has_the_files_that_an_engine_reads() -> None:
    """Config, tokenizer, template and weights, and nothing left over from training."""
    assert {path.name for path in BASE_DIR.iterdir()} == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    }


@each_version
def test_a_version_is_three_files(adapter: Adapter) -> None:
    """A config, weights and probes, without the trainer's arguments or a model card."""
    names = {path.name for path in adapter.folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "probes.json"}


def test_every_file_is_small() -> None:
    """The base is under 4 MB and each version under 1 MB, so that a checkout stays light."""
    assert (BASE_DIR / "model.safetensors").stat().st_size < 4 * MEGABYTE
    assert all((each.folder / "adapter_model.safetensors").stat().st_size < MEGABYTE for each in ADAPTERS)
    assert all(path.stat().st_size < 10 * MEGABYTE for path in SHIPPED)


def test_the_base_is_a_bfloat16_llama_of_the_size_on_record() -> None:
    """The weights have the number of parameters that recipe.json claims."""
    config = json.loads((BASE_DIR / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    size = (BASE_DIR / "model.safetensors").stat().st_size
    assert size == pytest.approx(2 * RECORD["base"]["parameters"], rel=0.01)


@each_version
def test_a_version_is_plain_lora_on_the_base(adapter: Adapter) -> None:
    """The config holds nothing that vLLM refuses and names the base as it is served."""
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE_NAME
    assert (config["peft_type"], config["bias"]) == ("LORA", "none")
    assert config["r"] <= 16
    for refused in ("modules_to_save", "rank_pattern", "alpha_pattern", "use_dora"):
        assert not config.get(refused)


@each_version
def test_a_version_changes_every_layer(adapter: Adapter) -> None:
    """Each linear layer has an A and a B of the rank, and no B is zero: the version does something."""
    config = json.loads((BASE_DIR / "config.json").read_text())
    with safe_open(adapter.folder / "adapter_model.safetensors", framework="np") as weights:
        names = set(weights.keys())
        changed = [name for name in names if "lora_B" in name and abs(weights.get_tensor(name)).max() > 0]
    assert len(names) == 2 * 7 * config["num_hidden_layers"]
    assert len(changed) == len(names) / 2


@each_version
def test_a_version_carries_sound_probes(adapter: Adapter) -> None:
    """The registry takes them, and they tell the version from the base by far more than any tolerance."""
    vocabulary = json.loads((BASE_DIR / "config.json").read_text())["vocab_size"]
    probes = read_probes(adapter.folder, vocabulary)
    assert probes is not None
    assert len(probes.probes) == RECORD["sizes"]["probes"]
    assert all(distance(probe.logprobs, probe.base_logprobs, floor=1e-3) > 1 for probe in probes.probes)


def test_the_probes_tell_the_versions_apart() -> None:
    """On the same prompts, from the same base, they hold other numbers for each version."""
    first, second = (read_probes(each.folder) for each in ADAPTERS)
    assert first is not None
    assert second is not None
    pairs = list(zip(first.probes, second.probes, strict=True))
    assert all(one.tokens == two.tokens and one.base_logprobs == two.base_logprobs for one, two in pairs)
    assert max(distance(one.logprobs, two.logprobs, floor=1e-3) for one, two in pairs) > 1


def test_the_probes_are_of_the_weights_that_ship(tmp_path: Path) -> None:
    """Computed again from them, they are the same up to rounding."""
    shutil.copytree(BASE_DIR, tmp_path / "base")
    shutil.copytree(DEMO / "adapters", tmp_path / "adapters")
    shutil.copy(DEMO / "recipe.json", tmp_path)
    command = [sys.executable, "-m", "demo.recipe", "--only", "probes", "--out", str(tmp_path)]
    subprocess.run(command, cwd=DEMO.parent, check=True, timeout=500, capture_output=True)
    for adapter in ADAPTERS:
        shipped, again = read_probes(adapter.folder), read_probes(tmp_path / adapter.folder.relative_to(DEMO))
        assert shipped is not None
        assert again is not None
        for one, two in zip(shipped.probes, again.probes, strict=True):
            assert one.tokens == two.tokens
            assert distance(one.logprobs, two.logprobs) < 1e-4
            assert distance(one.base_logprobs, two.base_logprobs) < 1e-4
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["scores"] == RECORD["scores"]  # the weights are as they were, so what was measured still holds


def test_the_versions_differ() -> None:
    """Version 2 is not version 1 under another number."""
    contents = {(each.folder / "adapter_model.safetensors").read_bytes() for each in ADAPTERS}
    assert len(contents) == len(ADAPTERS)


def test_no_file_names_the_machine_it_was_made_on() -> None:
    """No absolute path and no home folder in any text that ships."""
    texts = [path.read_text() for path in [*SHIPPED, DEMO / "recipe.json"] if path.suffix != ".safetensors"]
    assert not [text for text in texts if re.search(r'"(/|~|file:)\w+/|/home/|/root/|/tmp/', text)]


def test_the_example_can_be_pasted_into_a_shell() -> None:
    """It has no quote, apostrophe or other character that needs escaping."""
    assert re.fullmatch(r"[A-Za-z0-9 .,?-]+", EXAMPLE_MESSAGE)


def test_the_example_shows_the_difference() -> None:
    """On record, the base and both versions answer the example in three ways."""
    assert RECORD["example"]["message"] == EXAMPLE_MESSAGE
    assert len(set(RECORD["example"]["answers"].values())) == 3


def test_the_figures_on_record_are_what_the_demo_promises() -> None:
    """The base answers, version 1 answers better, and version 2 is nearly always right."""
    base, first, second = (RECORD["scores"][name]["fields"] for name in (BASE_NAME, "support@1", "support@2"))
    assert 0.1 <= base <= 0.6
    assert 0.65 <= first <= 0.85
    assert second >= 0.95


def test_the_readme_shows_the_figures_on_record() -> None:
    """Each row of the README's table has the values of recipe.json."""
    readme = (DEMO / "README.md").read_text()
    for model, figures in RECORD["scores"].items():
        row = " | ".join(f"{figures[name]:.3f}" for name in ("fields", "exact", "valid"))
        assert f"| `{model}` | {row} |" in readme
    assert EXAMPLE_MESSAGE in readme


def test_importing_the_demo_does_not_import_torch() -> None:
    """Processes that must stay free of torch can use the names, the tickets and the scoring."""
    code = (
        "import sys, demo, demo.tickets, demo.skills, demo.evaluate, demo.engine; "
        "print([name for name in ('torch', 'transformers', 'vllm', 'peft', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=DEMO.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_paths_are_inside_the_package() -> None:
    """The folders are found wherever the package lies."""
    assert all(Path(each.folder).is_relative_to(DEMO) for each in ADAPTERS)
    assert {(each.name, each.version) for each in ADAPTERS} == {("support", 1), ("support", 2)}
