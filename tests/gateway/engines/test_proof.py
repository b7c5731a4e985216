"""Which loaded versions pass as what they were stored as, before an engine whose numbers follow from the files."""

import math
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.engines.engine import Engine
from gateway.engines.failures import EngineDown, EngineRefused
from gateway.engines.proof import GENERIC_PROMPTS, Proof, Prover
from registry.probes import Distribution, Probe, Probes, distance
from tests.fakes.engine import FakeEngine
from tests.fakes.logprobs import next_tokens
from tests.registry.lora_samples import safetensors_bytes, tensors, write_adapter

TOLERANCE, LEAST = 0.25, 0.001
NAME = "support@1-0000aaaa"
PROMPTS = ((1, 2, 3), (4, 5), (6,))


class Bench:
    """One fake engine with adapters of chosen strength loaded, and one prover."""

    def __init__(self, fake: FakeEngine, session: aiohttp.ClientSession, folder: Path) -> None:
        self.fake = fake
        self.engine = Engine(fake.url, fake.base, session)
        self.prover = Prover(TOLERANCE, LEAST)
        self.folder = folder

    def adapter(self, scale: float) -> Path:
        """A folder whose weights are all of this size."""
        values = {name: (value * scale).astype(value.dtype) for name, value in tensors().items()}
        return write_adapter(self.folder / str(scale), weights=safetensors_bytes(values))

    def load(self, folder: Path, name: str = NAME) -> None:
        """Have the engine serve these files under the name."""
        self.fake.loaded[name] = str(folder)

    async def prove(self, probes: Probes | None, name: str = NAME, timeout_s: float = 5.0) -> Proof:
        """What the prover says of the version."""
        return await self.prover.prove(self.engine, name, probes, timeout_s)

    async def refusal(self, probes: Probes | None, name: str = NAME) -> str:
        """Why the version does not pass."""
        with pytest.raises(EngineRefused) as caught:
            await self.prove(probes, name)
        assert caught.value.status == 422
        assert str(self.folder) not in caught.value.reason
        return caught.value.reason


def stored(folder: Path, base: str = "tiny", moved: float = 0.0) -> Probes:
    """The probes of the adapter in `folder`, each number moved by as much."""
    probes = [
        Probe(prompt, shifted(next_tokens(prompt, str(folder), base), moved), dict(next_tokens(prompt, None, base)))
        for prompt in PROMPTS
    ]
    return Probes(format=1, dtype="float32", probes=tuple(probes))


def shifted(logprobs: Distribution, by: float) -> dict[int, float]:
    """The same tokens, all less likely."""
    return {token: logprob - by for token, logprob in logprobs.items()}


@pytest.fixture
async def bench(fake_engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench without any adapter loaded."""
    async with aiohttp.ClientSession() as session:
        yield Bench(fake_engine, session, tmp_path)


# --- with probes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [0.0, 0.2])
async def test_a_version_that_answers_as_stored_passes(bench: Bench, moved: float) -> None:
    """Within the tolerance; the proof says by how much, and how far it is from the base."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    proof = await bench.prove(stored(folder, moved=moved))
    assert (proof.kind, proof.prompts, proof.tolerance, proof.noise) == ("probes", len(PROMPTS), TOLERANCE, 0.0)
    assert proof.distance == pytest.approx(moved, abs=1e-9)
    apart = [distance(next_tokens(each, str(folder)), next_tokens(each, None)) for each in PROMPTS]
    assert proof.difference == pytest.approx(max(apart))


async def test_swapped_weights_are_refused(bench: Bench) -> None:
    """The name is right, the files are another version's."""
    mine, other = bench.adapter(1.0), bench.adapter(2.0)
    bench.load(other)
    reason = await bench.refusal(stored(mine))
    assert "not those that were stored with it" in reason
    assert "allowed 0.25" in reason


async def test_one_prompt_that_disagrees_is_enough(bench: Bench) -> None:
    """Agreement is asked of every prompt."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    *kept, last = stored(folder).probes
    wrong = msgspec.structs.replace(last, logprobs=shifted(last.logprobs, 0.3))
    reason = await bench.refusal(Probes(format=1, dtype="float32", probes=(*kept, wrong)))
    assert "0.3 apart" in reason


async def test_unlikely_tokens_need_not_agree(bench: Bench) -> None:
    """Rounding moves them most, so those below one in a thousand do not count."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    probes = []
    for probe in stored(folder).probes:
        moved = {token: lp if lp > math.log(1e-3) else lp - 2.0 for token, lp in probe.logprobs.items()}
        assert distance(moved, probe.logprobs) > TOLERANCE
        probes.append(msgspec.structs.replace(probe, logprobs=moved))
    proof = await bench.prove(Probes(format=1, dtype="float32", probes=tuple(probes)))
    assert proof.distance == pytest.approx(0.0, abs=1e-9)


async def test_few_tokens_in_common_are_no_agreement(bench: Bench) -> None:
    """Equal numbers for the few tokens that both lists hold do not hide that the others are missing."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    probes = []
    for probe in stored(folder).probes:
        least = min(probe.logprobs, key=lambda token: probe.logprobs[token])
        strangers = {1000 + token: logprob for token, logprob in probe.logprobs.items() if token != least}
        probes.append(msgspec.structs.replace(probe, logprobs={**strangers, least: probe.logprobs[least]}))
    reason = await bench.refusal(Probes(format=1, dtype="float32", probes=tuple(probes)))
    assert "not those that were stored" in reason


async def test_another_base_model_is_told_as_such(bench: Bench) -> None:
    """It is not the version's fault."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    reason = await bench.refusal(stored(folder, base="another"))
    assert "base model is not the one that the version was trained on" in reason


# --- does it act? ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_probes", [True, False])
async def test_a_version_that_loads_and_does_nothing_is_refused(bench: Bench, with_probes: bool) -> None:
    """The engine says that it loaded it, and answers as the base."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    bench.fake.idle.add(NAME)
    assert "does nothing" in await bench.refusal(stored(folder) if with_probes else None)


async def test_a_version_whose_weights_are_too_small_to_matter_is_refused(bench: Bench) -> None:
    """They are not zero, so the push took them."""
    bench.load(bench.adapter(1e-6))
    assert "does nothing" in await bench.refusal(None)


async def test_a_version_without_probes_must_differ_from_the_base(bench: Bench) -> None:
    """On some prompt of a fixed list, asked in one request."""
    bench.load(bench.adapter(1.0))
    proof = await bench.prove(None)
    assert (proof.kind, proof.distance, proof.prompts) == ("base", None, len(GENERIC_PROMPTS))
    assert proof.difference > LEAST
    assert bench.fake.calls[NAME] == 1


async def test_what_the_base_does_to_itself_is_no_difference(bench: Bench) -> None:
    """Asked twice the base gives two answers; a version counts only if it lies twice as far away."""
    bench.load(bench.adapter(0.05))
    steady = await bench.prove(None)
    bench.prover.forget()
    bench.fake.unsteady = steady.difference
    assert "does nothing" in await bench.refusal(None)
    bench.prover.forget()
    bench.fake.unsteady = steady.difference / 8
    assert (await bench.prove(None)).noise == pytest.approx(steady.difference / 8)


# --- what the prover remembers ---------------------------------------------------------------------------------


async def test_the_base_is_asked_once_for_each_prompt(bench: Bench) -> None:
    """Further versions are held against the answers of before."""
    for name, scale in (("one", 1.0), ("two", 2.0)):
        bench.load(bench.adapter(scale), name)
    await bench.prove(None, "one")
    asked = bench.fake.calls["tiny"]
    await bench.prove(None, "two")
    assert bench.fake.calls["tiny"] == asked
    bench.prover.forget()
    await bench.prove(None, "two")
    assert bench.fake.calls["tiny"] == 2 * asked


async def test_a_new_engine_is_asked_anew(bench: Bench) -> None:
    """After `forget`, another base model behind the same address is noticed."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    await bench.prove(stored(folder))
    bench.fake.base = bench.engine.base = "another"
    bench.prover.forget()
    assert "base model is not the one" in await bench.refusal(stored(folder))


async def test_a_refusal_leaves_no_wrong_answer_behind(bench: Bench) -> None:
    """If the base's answer was what was wrong, the next try asks for it again."""
    folder = bench.adapter(1.0)
    bench.load(folder)
    bench.fake.unsteady = 1.0
    await bench.refusal(stored(folder))
    bench.fake.unsteady = 0.0
    assert (await bench.prove(stored(folder))).noise == 0.0


# --- the engine's faults ---------------------------------------------------------------------------------------


async def test_an_engine_that_is_gone_is_down_and_not_a_refusal(bench: Bench) -> None:
    """So that the version is not blamed."""
    bench.load(bench.adapter(1.0))
    await bench.fake.stop()
    with pytest.raises(EngineDown):
        await bench.prove(None)


async def test_the_time_is_for_all_requests_together(bench: Bench) -> None:
    """Each request is quick enough by itself."""
    bench.load(bench.adapter(1.0))
    bench.fake.gap_s = 0.1
    with pytest.raises(EngineDown):
        await bench.prove(None, timeout_s=0.35)
    assert bench.fake.calls[NAME] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "another"}, "another model"),
        ({"choices": []}, "answered 0 of"),
        ({"choices": [{"index": 0, "logprobs": None}]}, "no log probabilities"),
        ({"choices": [{"index": 0, "logprobs": {"top_logprobs": [None]}}]}, "no log probabilities"),
        ({"choices": [{"index": 0, "logprobs": {"top_logprobs": [{" the": -1.0}]}}]}, "no log probabilities"),
    ],
)
async def test_an_answer_in_another_form_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    """As of an engine that was started without them, or a proxy that answers for it."""
    bench.load(bench.adapter(1.0))
    right = bench.fake._logprobs
    monkeypatch.setattr(bench.fake, "_logprobs", lambda model, prompts: right(model, prompts) | change)
    with pytest.raises(EngineRefused, match=told):
        await bench.prove(None)


async def test_the_weights_are_what_is_proved_and_not_the_folder(bench: Bench) -> None:
    """The same files elsewhere pass."""
    folder = bench.adapter(1.0)
    copy = Path(shutil.copytree(folder, bench.folder / "elsewhere"))
    bench.load(copy)
    assert (await bench.prove(stored(folder))).distance == 0.0
