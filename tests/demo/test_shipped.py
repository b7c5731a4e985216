"""The weights that ship: their files, and that the engine takes them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from demo import ADAPTERS, BASE_DIR, BASE_NAME, EXAMPLE_MESSAGE, Adapter

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
def test_a_version_is_two_files(adapter: Adapter) -> None:
    """A config and weights, without the trainer's arguments or a model card."""
    assert {path.name for path in adapter.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


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
