"""What a job's training costs beside the same TRL script by hand: `python -m benchmarks.tuner [--rounds 5]`.

Both run in a process of their own, by turns, on the same rows with the same hyperparameters, validation and
checkpoints: the tuner's child as a worker starts it (without the dataset's making, events in a database, and the gate),
and the script below, which is what one writes with TRL's documentation. Told are the time of the whole process, by the
clock and of the processor, and the most memory that was held. Within the process the two cannot be held against each
other step by step: TRL's trainer makes tokens of the rows when it is built, the tuner before the base model is loaded.

On a GPU: `--device cuda --random`, which takes a Llama of 1.2 billion random weights in place of the demo's base.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from demo.tickets import training
from registry.tuning.orders import Hyperparameters, LoraOrder, StoppingOrder, TuningOrder
from tuner.messages import Done, Failed, decode
from tuner.training.plan import Circumstances, Plan, make_plan
from tuner.workspace import TrainTask, Workspace

RESULTS = Path(__file__).parent / "results" / "tuner.md"
DEMO_BASE = Path(__file__).parent.parent / "demo" / "base"
_VALIDATION_ROWS = 64
_GIB = 1 << 30
_RANDOM = {  # the shape of Llama 3.2 1B
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    base_model: Path
    device: str
    order: TuningOrder
    rows: int
    repeat: int


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        seconds: of the whole process.
        processor_s: that it used of the processor.
        memory: the most that was held, bytes: of the GPU, else of the process.
        tokens: that were trained on.
        loss: on the validation split, at its best.
    """

    seconds: float
    processor_s: float
    memory: int
    tokens: int
    loss: float


def write_rows(folder: Path, setup: Setup) -> None:
    """The same tickets for both, as a frozen dataset has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tickets = training(setup.rows + _VALIDATION_ROWS, 1)
    splits = {"train": tickets[_VALIDATION_ROWS:], "validation": tickets[:_VALIDATION_ROWS], "holdout": tickets[:8]}
    for name, found in splits.items():
        rows = [
            [{"role": "user", "content": each.message * setup.repeat}, {"role": "assistant", "content": each.answer}]
            for each in found
        ]
        lines = [json.dumps({"messages": row}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def run_tuner(folder: Path, setup: Setup) -> Run:
    """The tuner's child."""
    workspace = Workspace(folder)
    write_rows(workspace.dataset, setup)
    workspace.write_task(TrainTask(setup.order, str(setup.base_model), None, device=setup.device))
    said, took = _run("-m", "tuner.child", str(folder))
    last = decode(said[-1])
    if isinstance(last, Failed) or not isinstance(last, Done):
        raise SystemExit(f"the tuner's child failed: {last}")
    found = last.result
    return Run(*took, found["peak_memory_bytes"], found["tokens"], found["validation_loss"])


def run_by_hand(folder: Path, setup: Setup, plan: Plan) -> Run:
    """The script, with the plan's hyperparameters."""
    write_rows(folder / "dataset", setup)
    task = {"base_model": str(setup.base_model), "plan": msgspec.to_builtins(plan)}
    (folder / "script.json").write_text(json.dumps(task))
    said, (seconds, processor_s) = _run("-m", "benchmarks.tuner", "--by-hand", str(folder))
    return Run(seconds, processor_s, **json.loads(said[-1]))


def by_hand(folder: Path) -> None:
    """Train as one does with TRL's documentation, and print what was measured."""
    import resource

    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    task = json.loads((folder / "script.json").read_text())
    plan = msgspec.convert(task["plan"], Plan)
    on_gpu = plan.device == "cuda"
    files = {name: str(folder / "dataset" / f"{name}.jsonl") for name in ("train", "validation")}
    rows = load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
    quantized = plan.quantization == "nf4"
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, plan.dtype),
    )
    model = AutoModelForCausalLM.from_pretrained(
        task["base_model"],
        dtype=getattr(torch, plan.dtype),
        quantization_config=four_bits if quantized else None,
        device_map={"": 0 if on_gpu else "cpu"},
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(plan, folder / "out")),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        peft_config=LoraConfig(
            r=plan.lora.rank, lora_alpha=int(plan.lora.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    used = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = trainer.state.num_input_tokens_seen
    print(json.dumps({"memory": used, "tokens": tokens, "loss": trainer.state.best_metric}))


def _arguments(plan: Plan, out: Path) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "seed": plan.seed,
        "num_train_epochs": plan.epochs,
        "per_device_train_batch_size": plan.batch_size,
        "per_device_eval_batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": plan.schedule + "_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": plan.last_rate_share},
        "warmup_steps": plan.warmup_steps,
        "max_grad_norm": plan.clipping,
        "weight_decay": plan.weight_decay,
        "train_sampling_strategy": "group_by_length",
        "max_length": None,
        "assistant_only_loss": True,
        "use_cpu": plan.device == "cpu",
        "bf16": plan.dtype == "bfloat16",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if plan.gradient_checkpointing else None,
        "dataloader_pin_memory": plan.device == "cuda",
        "eval_strategy": "steps",
        "eval_steps": plan.evaluate_every,
        "save_strategy": "steps",
        "save_steps": plan.evaluate_every,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _run(*arguments: str) -> tuple[list[bytes], tuple[float, float]]:
    """What a Python process printed, line by line, and its seconds: by the clock, and of the processor."""
    began = time.monotonic()
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        (sys.executable, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        process_group=0,
    )
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    _, status, used = os.wait4(child.pid, 0)
    if not lines:
        raise SystemExit(f"{' '.join(arguments[:2])} said nothing and ended with {os.waitstatus_to_exitcode(status)}")
    return lines, (time.monotonic() - began, used.ru_utime + used.ru_stime)


def random_llama(folder: Path) -> Path:
    """A Llama of random weights, with the demo's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    config = LlamaConfig(
        **_RANDOM,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plan_of(setup: Setup) -> Plan:
    """What the tuner will decide, for the script."""
    config = json.loads((setup.base_model / "config.json").read_text())
    on_gpu = setup.device == "cuda"
    given = Circumstances(
        rows=setup.rows,
        validation_rows=_VALIDATION_ROWS,
        hidden_size=config["hidden_size"],
        start=None,
        device="cuda" if on_gpu else "cpu",
        dtype="bfloat16" if on_gpu else "float32",
    )
    return make_plan(setup.order, given)


def measure(setup: Setup, rounds: int) -> list[tuple[Run, Run]]:
    """The tuner's and the script's runs, by turns: who was first is second in the next round."""
    pairs, plan = [], plan_of(setup)
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="ostler-bench-") as folder:
            ours, theirs = Path(folder) / "tuner", Path(folder) / "script"
            if number % 2:
                script = run_by_hand(theirs, setup, plan)
                tuner = run_tuner(ours, setup)
            else:
                tuner = run_tuner(ours, setup)
                script = run_by_hand(theirs, setup, plan)
        pairs.append((tuner, script))
        print(f"round {number + 1}: {tuner} {script}", flush=True)
    return pairs


def report(setup: Setup, pairs: Sequence[tuple[Run, Run]], command: str) -> str:
    """The results as Markdown."""
    where = (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, device "
        f"{setup.device}, quantization {setup.order.lora.quantization}; {setup.rows:,} rows, {len(pairs)} rounds by "
        f"turns, load {os.getloadavg()[0]:.1f} at the end. Medians; in brackets the least and the most."
    )
    lines = [
        "# Tuner: a job's training beside the same TRL script by hand",
        "",
        where,
        "",
        "| | tuner | script | tuner / script |",
        "| --- | --- | --- | --- |",
        _row("whole process, s", pairs, "seconds", 1),
        _row("the same, s of the processor", pairs, "processor_s", 1),
        _row("most memory, GiB", pairs, "memory", _GIB),
        _rates(pairs),
        _row("validation loss", pairs, "loss", 1),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, pairs: Sequence[tuple[Run, Run]], field: str, unit: float) -> str:
    values = [(getattr(ours, field) / unit, getattr(theirs, field) / unit) for ours, theirs in pairs]
    return _cells(name, values)


def _rates(pairs: Sequence[tuple[Run, Run]]) -> str:
    return _cells(
        "tokens a second", [(ours.tokens / ours.seconds, theirs.tokens / theirs.seconds) for ours, theirs in pairs]
    )


def _cells(name: str, values: Sequence[tuple[float, float]]) -> str:
    ours, theirs = zip(*values, strict=True)
    ratios = [one / other for one, other in values]
    return f"| {name} | {_spread(ours)} | {_spread(theirs)} | {_spread(ratios, 3)} |"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    """Measure, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="how often a ticket stands in its prompt")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quantization", choices=("none", "nf4"), default="none")
    parser.add_argument("--random", action="store_true", help="a Llama of 1.2 billion random weights")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.by_hand is not None:
        by_hand(given.by_hand)
        return
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as folder:
        order = TuningOrder(
            adapter="bench",
            base="bench",
            training_file="bench",
            hyperparameters=Hyperparameters(n_epochs=given.epochs),
            lora=LoraOrder(quantization=given.quantization),
            stopping=StoppingOrder(patience=0, checkpoints=2),
        )
        base = random_llama(Path(folder)) if given.random else DEMO_BASE
        setup = Setup(base, given.device, order, given.rows, given.repeat)
        found = report(setup, measure(setup, given.rounds), f"python -m benchmarks.tuner {' '.join(sys.argv[1:])}")
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(found)
    print(found)


if __name__ == "__main__":
    main()
