"""The result: two files that an engine reads, whose bytes depend on the training alone."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from registry.lora import WEIGHTS_FILE
from registry.lora_config import CONFIG_FILE


def save_adapter(checkpoint: Path, folder: Path, base: str) -> None:
    """Write the weights of a checkpoint to `folder`, in place of whatever is there.

    The config names `base`, the base model, in place of where this machine has it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = folder / WEIGHTS_FILE
    save_file(load_file(checkpoint / WEIGHTS_FILE), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors lets nobody else read, but the engine may run as somebody else
    config = json.loads((checkpoint / CONFIG_FILE).read_text())
    config["base_model_name_or_path"] = base
    config["inference_mode"] = True
    if isinstance(config["target_modules"], list):
        # PEFT keeps the names in a set, whose order changes from process to process.
        config["target_modules"] = sorted(config["target_modules"])
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
