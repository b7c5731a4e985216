"""Whether the engine could serve what a job would make, before hours go into it.

1. the shape     rank and modules, by the rules by which a push would be refused afterwards
2. the base      the gateway serves it
3. the reading   the engine turns conversations into the same tokens: an adapter that was trained on another chat
                 template answers badly, and nothing else would say why

And whether the gate could judge it: its sets can be read, and the base model can do enough of the retention set. The
job then tells the rule by which its candidate will be judged. All of it is told before training, not after.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from monitors.watch.client import GatewayRefused
from tuner.candidates import adapter_folder
from tuner.children import run_task
from tuner.errors import JobFailed
from tuner.evaluation.questions import questions_of
from tuner.evaluation.rule import write_rule
from tuner.evaluation.sets import read_sets
from tuner.evaluation.skills import require_skills
from tuner.patience import patiently
from tuner.shop import AtWork
from tuner.workspace import CheckTask

_MOST_NAMED = 5


async def require_servable(work: AtWork) -> None:
    """Refuse an order whose result the engine could not serve, or no gate could hold against its sets; tell the rule.

    Raises:
        JobFailed: it could not.
        EngineAway: nobody was there to ask.
        Interrupted, ChildCrashed
    """
    sets = await read_sets(work)
    await require_fit(work, await _look(work))
    await require_skills(work, sets.retention)
    await write_rule(work, await questions_of(work, sets))


async def require_fit(work: AtWork, found: Mapping[str, Any]) -> None:
    """Refuse what a look at the base model found (see `tuner.training.check`) and the engine could not serve.

    Raises:
        JobFailed
        EngineAway: nobody was there to ask.
    """
    _require_rank(work, found["rank"])
    _require_modules(work, found["targets"])
    await _require_base(work)
    for prompt in found["prompts"]:
        await _require_same_reading(work, prompt)


async def _look(work: AtWork) -> dict[str, Any]:
    """What a child finds out of the base model and the order; see `tuner.training.check`."""
    order, start_from = work.order, None
    if order.start_from is not None:
        start_from = str(await adapter_folder(work, order.start_from))
    task = CheckTask(order=order, base_model=work.shop.settings.base_model, start_from=start_from)
    return (await run_task(work, task)).result


def _require_rank(work: AtWork, rank: int) -> None:
    largest = work.shop.settings.max_lora_rank
    if rank > largest:
        started = "" if work.order.start_from is None else f" of {work.order.adapter}@{work.order.start_from}"
        message = f"the rank{started} is {rank}; the engine of {work.order.base} serves ranks up to {largest}"
        raise JobFailed("invalid_hyperparameters", message, "rank")


def _require_modules(work: AtWork, targets: Sequence[str]) -> None:
    shapes = work.shop.registry.base_for(work.order.base).module_shapes()
    if shapes is None:
        return  # the engine alone can say; a version that it refuses fails its evaluation
    strange = sorted({target.rpartition(".")[2] for target in targets if target not in shapes})
    if strange:
        servable = ", ".join(sorted({name.rpartition(".")[2] for name in shapes}))
        named = ", ".join(strange[:_MOST_NAMED])
        message = f"the engine cannot serve changes of {named} of {work.order.base}; name some of: {servable}"
        raise JobFailed("invalid_hyperparameters", message, "targets")


async def _require_base(work: AtWork) -> None:
    try:
        models = await _asked(work, lambda: work.shop.gateway.get("/v1/models"))
    except GatewayRefused as refused:
        raise _not_asked(refused) from refused
    served = [model.get("id") for model in models.get("data", []) if isinstance(model, Mapping)]
    if work.order.base not in served:
        message = (
            f"the gateway does not serve the base model {work.order.base}, so nothing could serve an adapter of it"
        )
        raise JobFailed("unservable", message)


async def _require_same_reading(work: AtWork, prompt: Mapping[str, Any]) -> None:
    base, messages, ours = work.order.base, prompt["messages"], prompt["tokens"]
    try:
        answer = await _asked(
            work,
            lambda: work.shop.gateway.chat(base, messages, max_tokens=1, temperature=0, return_token_ids=True),
        )
    except GatewayRefused as refused:
        if refused.status == 400:
            raise _reads_otherwise("it refuses a conversation that the tuner's takes") from refused
        raise _not_asked(refused) from refused
    theirs = answer.get("prompt_token_ids")
    if not isinstance(theirs, list):
        said = (
            "The engine does not tell its token ids, so nobody knows whether it reads conversations as they are trained"
        )
        await work.tell(said, "warn")
    elif theirs != ours:
        raise _reads_otherwise(f"it makes {len(theirs)} tokens of a conversation, the tuner {len(ours)}, not the same")


async def _asked(work: AtWork, call: Any) -> dict[str, Any]:
    found: dict[str, Any] = await patiently(call, work.shop.settings.tuner_engine_wait_s)
    return found


def _reads_otherwise(how: str) -> JobFailed:
    message = f"the engine reads conversations otherwise (its chat template or tokenizer differs): {how}"
    return JobFailed("unservable", f"{message}; give the engine and the tuner the same files of the base model")


def _not_asked(refused: GatewayRefused) -> JobFailed:
    return JobFailed("evaluation_failed", f"the engine could not be asked: {refused}; see to the tuner's key and URL")
