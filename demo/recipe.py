"""Make everything in this folder again: `python -m demo.recipe`.

Data, tokenizer, base model, both versions of the adapter with their probes, then their evaluation through vLLM. The
same seed, machine and number of threads give the same bytes.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo import ADAPTERS, BASE_DIR, BASE_NAME, EXAMPLE_MESSAGE, Adapter
from demo.engine import engine_name, running_engine
from demo.evaluate import Scores, ask, field_accuracy
from demo.skills import Example, pretraining, skills
from demo.tickets import held_out, training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from demo.finetune import AdapterConfig
    from demo.pretrain import BaseConfig

STEPS = ("tokenizer", "base", "adapters", "probes", "evaluate")
HERE = BASE_DIR.parent


@dataclass(frozen=True)
class Sizes:
    """How much work a run is; the sizes of models are the defaults of `BaseConfig` and `AdapterConfig`."""

    examples: int = 65_280  # for the base
    tickets: dict[int, int] = field(default_factory=lambda: {1: 300, 2: 1500})  # version -> training tickets
    replay: dict[int, int] = field(default_factory=lambda: {1: 60, 2: 300})  # version -> rows of skills
    epochs: int = 3
    probes: int = 4  # tickets whose next tokens ship with each version
    held_out: int = 400  # tickets to evaluate on


QUICK = Sizes(examples=960, tickets={1: 32, 2: 64}, replay={1: 16, 2: 16}, epochs=1, held_out=0)


@dataclass
class Run:
    """One run of the recipe."""

    out: Path
    seed: int
    sizes: Sizes
    progress: Progress
    record: dict[str, Any]

    @property
    def base(self) -> Path:
        """The base model's folder."""
        return self.out / "base"

    @property
    def adapters(self) -> list[Adapter]:
        """The versions, in this run's folder."""
        return [replace(each, folder=self.out / each.folder.relative_to(HERE)) for each in ADAPTERS]

    @contextmanager
    def step(self, number: int, name: str, total: int) -> Iterator[Any]:
        """A progress bar of `total` ticks for one numbered step; its seconds go to the record."""
        task = self.progress.add_task(f"{number}. {name}", total=total)
        start = time.monotonic()
        yield lambda *_: self.progress.advance(task)
        self.progress.update(task, completed=total)
        seconds = round(time.monotonic() - start, 1)
        self.record.setdefault("seconds", {})[name] = seconds
        if not self.progress.console.is_terminal:
            # A log gets a line per step in place of the bars.
            print(f"{number}. {name}: {seconds} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps that were asked for, in order, and write recipe.json."""
    options = _parse(arguments)
    _prepare(options.threads)
    steps = options.only or [step for step in STEPS if not (options.quick and step == "evaluate")]
    console = Console()
    with _progress(console) as progress:
        run = Run(options.out, options.seed, QUICK if options.quick else Sizes(), progress, _read_record(options.out))
        if not set(steps) <= {"probes", "evaluate"}:
            _start_record(run, options.threads)
        # 1. The tokenizer learns from the texts that the base will see.
        if "tokenizer" in steps:
            make_tokenizer(run)
        # 2. The base model learns small skills and a coarse triage.
        if "base" in steps:
            make_base(run)
        # 3. Two versions of the adapter `support` learn the desk's own labels.
        if "adapters" in steps:
            make_adapters(run)
        # 4. What PEFT says comes next is stored with each version, for engines to be held against.
        if "probes" in steps:
            make_probes(run)
        # 5. All three answer tickets worded as none before, through the engine that serves them.
        if "evaluate" in steps:
            evaluate(run)
    _write_record(run)
    _report(console, run.record)


def make_tokenizer(run: Run) -> None:
    """Write base/tokenizer.json, base/tokenizer_config.json and base/chat_template.jinja."""
    from demo.tokenizer import save_tokenizer, train_tokenizer

    config = _base_config(run)
    with run.step(1, "tokenizer", total=1):
        examples = pretraining(config.examples, run.seed)
        texts = (text for example in examples for text in (example.prompt, example.answer))
        save_tokenizer(train_tokenizer(texts, config.vocabulary, config.context), run.base)


def make_base(run: Run) -> None:
    """Write base/config.json, base/generation_config.json and base/model.safetensors."""
    from demo.pretrain import save_base, train_base

    config = _base_config(run)
    with run.step(2, "base", total=config.steps) as tick:
        tokenizer = _load_tokenizer(run)
        model = train_base(config, tokenizer, pretraining(config.examples, run.seed), run.seed, tick)
        save_base(model, tokenizer, run.base)
    run.record["base"] = asdict(config) | {"parameters": model.num_parameters()}


def make_adapters(run: Run) -> None:
    """Write adapters/support/1 and adapters/support/2: the same training on few and on many tickets."""
    from demo.finetune import train_adapter

    for adapter in run.adapters:
        config = _adapter_config(run, adapter)
        with run.step(3, engine_name(adapter), total=config.steps) as tick:
            shutil.rmtree(adapter.folder, ignore_errors=True)
            rows = [Example(each.message, each.answer) for each in training(config.tickets, run.seed)]
            rows += skills(config.replay, run.seed)
            train_adapter(config, run.base, _load_tokenizer(run), rows, adapter.folder, run.seed, tick)
        run.record[engine_name(adapter)] = asdict(config)


def make_probes(run: Run) -> None:
    """Write adapters/support/*/probes.json, on tickets that no version was trained on."""
    from demo.probes import write_probes

    with run.step(4, "probes", total=len(run.adapters)) as tick:
        for adapter in run.adapters:
            tickets = held_out(run.sizes.probes, run.seed)
            write_probes(run.base, _load_tokenizer(run), tickets, adapter.folder)
            tick()


def evaluate(run: Run) -> None:
    """Start vLLM with what was made, and let the base and each version answer the held-out tickets."""
    tickets = held_out(run.sizes.held_out, run.seed)
    models = [BASE_NAME, *(engine_name(each) for each in run.adapters)]
    with (
        run.step(5, "evaluate", total=len(models) * len(tickets)) as tick,
        tempfile.TemporaryDirectory() as folder,
        running_engine(run.base, run.adapters, Path(folder) / "vllm.log") as url,
    ):
        scores = [field_accuracy(url, model, tickets, on_answer=tick) for model in models]
        answers = {model: ask(url, model, EXAMPLE_MESSAGE) for model in models}
    run.record["held_out"] = {"tickets": len(tickets), "seed": run.seed}
    run.record["scores"] = {each.model: _figures(each) for each in scores}
    run.record["example"] = {"message": EXAMPLE_MESSAGE, "answers": answers}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.recipe", description="Make the demo's weights again.")
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).resolve(),
        default=HERE,
        help="folder to write to (default: the demo's own)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for training (default: 2)")
    parser.add_argument("--only", choices=STEPS, action="append", help="run this step alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything but vLLM, to try the code")
    options = parser.parse_args(arguments)
    if options.quick and options.out == HERE:
        parser.error("--quick needs --out: its weights are no good and would replace those that ship")
    return options


def _prepare(threads: int) -> None:
    """Keep libraries off the network and make arithmetic repeatable, before anything imports them."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Waiting threads sleep: on a busy machine spinning ones take the core from those that they wait for.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("bitsandbytes").setLevel("ERROR")  # it misses kernels that nothing here uses


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _base_config(run: Run) -> "BaseConfig":
    from demo.pretrain import BaseConfig

    return BaseConfig(examples=run.sizes.examples)


def _adapter_config(run: Run, adapter: Adapter) -> "AdapterConfig":
    from demo.finetune import AdapterConfig

    sizes = run.sizes
    return AdapterConfig(
        tickets=sizes.tickets[adapter.version], replay=sizes.replay[adapter.version], epochs=sizes.epochs
    )


def _load_tokenizer(run: Run) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(run.base))


def _figures(scores: Scores) -> dict[str, Any]:
    figures = {name: getattr(scores, name) for name in ("fields", "exact", "valid")} | scores.by_field
    return {name: round(value, 3) for name, value in figures.items()}


def _read_record(out: Path) -> dict[str, Any]:
    path = out / "recipe.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _start_record(run: Run, threads: int) -> None:
    """Note what the weights are made with; figures of earlier weights no longer hold."""
    run.record |= {"seed": run.seed, "threads": threads, "machine": platform.machine(), "sizes": asdict(run.sizes)}
    for name in ("held_out", "scores", "example"):
        run.record.pop(name, None)


def _write_record(run: Run) -> None:
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "recipe.json").write_text(json.dumps(run.record, indent=2) + "\n")


def _report(console: Console, record: dict[str, Any]) -> None:
    if "scores" not in record:
        return
    table = Table("model", "field accuracy", "exact JSON", "valid JSON")
    for model, figures in record["scores"].items():
        table.add_row(model, *(f"{figures[name]:.3f}" for name in ("fields", "exact", "valid")))
    console.print(table)
    for line in (record["example"]["message"], *map(": ".join, record["example"]["answers"].items())):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
