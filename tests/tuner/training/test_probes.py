"""A version's probes, on the demo's base model and its first version."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.tickets import Ticket, held_out
from registry.base_model import BaseSpec, read_config
from registry.lora import check_adapter
from registry.probes import PROBES_FILE, distance, read_probes
from tests.tuner.works import BASE_MODEL
from tuner.errors import JobFailed
from tuner.training.probes import LONGEST, Conversation, write_probes

SUPPORT_1 = BASE_MODEL.parent / "adapters" / "support" / "1"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The first version's two files, as training leaves them."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(SUPPORT_1 / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Tickets with their right answers, of many lengths."""
    return [_conversation(ticket) for ticket in held_out(30, 1)]


def _conversation(ticket: Ticket) -> Conversation:
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    asked = [{"role": "user", "content": ticket.message}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    answer = tokenizer(ticket.answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return Conversation(prompt + answer, len(prompt))


def _next_token(model: PeftModel, prompt: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([list(prompt)])).logits[0, -1].float(), dim=-1)


def test_probes_are_what_the_saved_files_say(adapter: Path, conversations: list[Conversation]) -> None:
    """Each number agrees with a model that is loaded anew and asked the prompt alone, and a push takes the file."""
    assert write_probes(str(BASE_MODEL), adapter, conversations, device="cpu", context=512)
    found = read_probes(adapter, 1536)
    assert found is not None
    assert (found.dtype, len(found.probes)) == ("float32", 4)
    assert (adapter / PROBES_FILE).stat().st_size < 64 * 1024
    base = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    for probe in found.probes:
        adapted = _next_token(model, probe.tokens)
        with model.disable_adapter():
            alone = _next_token(model, probe.tokens)
        assert max(abs(adapted[token].item() - logprob) for token, logprob in probe.logprobs.items()) < 1e-4
        assert max(abs(alone[token].item() - logprob) for token, logprob in probe.base_logprobs.items()) < 1e-4
    spec = BaseSpec("tiny", config=read_config(str(BASE_MODEL)))
    assert PROBES_FILE in check_adapter(adapter, spec, trained_on=False).files


def test_probes_stand_where_adapter_and_base_differ(adapter: Path, conversations: list[Conversation]) -> None:
    """The prompts end inside the answers, where other tokens are likely with the adapter than without."""
    write_probes(str(BASE_MODEL), adapter, conversations, device="cpu", context=512)
    found = read_probes(adapter)
    assert found is not None
    whole = {tuple(each.tokens): each.answer for each in conversations}
    for probe in found.probes:
        (answer,) = [at for tokens, at in whole.items() if tokens[: len(probe.tokens)] == probe.tokens]
        assert len(probe.tokens) >= answer
        assert distance(probe.logprobs, probe.base_logprobs) > 1
        assert max(probe.logprobs, key=lambda token: probe.logprobs[token]) != max(
            probe.base_logprobs, key=lambda token: probe.base_logprobs[token]
        )


def test_the_same_files_give_the_same_probes(adapter: Path, conversations: list[Conversation]) -> None:
    """Probes are a part of a version's content, so they must not change from time to time."""
    write_probes(str(BASE_MODEL), adapter, conversations, device="cpu")
    first = (adapter / PROBES_FILE).read_bytes()
    write_probes(str(BASE_MODEL), adapter, conversations[::-1], device="cpu")
    assert {json.dumps(each) for each in json.loads(first)["probes"]} == {
        json.dumps(each) for each in json.loads((adapter / PROBES_FILE).read_bytes())["probes"]
    }


def test_of_a_long_conversation_the_end_is_taken(adapter: Path, conversations: list[Conversation]) -> None:
    """No prompt is longer than what the file's format and the engine's context take."""
    first = conversations[0]
    long = Conversation([*first.tokens[: first.answer]] * 30 + [*first.tokens[first.answer :]], first.answer * 30)
    assert len(long.tokens) > LONGEST
    write_probes(str(BASE_MODEL), adapter, [long], device="cpu", context=200)
    found = read_probes(adapter)
    assert found is not None
    assert 150 < len(found.probes[0].tokens) < 200


@pytest.mark.parametrize("given", [[], [Conversation([1, 2, 3], 3)]])
def test_without_an_answer_there_are_no_probes(adapter: Path, given: list[Conversation]) -> None:
    """A split without rows is no failure; nothing is written."""
    assert not write_probes(str(BASE_MODEL), adapter, given, device="cpu")
    assert not (adapter / PROBES_FILE).exists()


def test_an_adapter_that_changes_nothing_fails_the_job(adapter: Path, conversations: list[Conversation]) -> None:
    """What no engine could prove must not become a version."""
    weights = adapter / "adapter_model.safetensors"
    tiny = {name: tensor * (1e-12 if "lora_B" in name else 1) for name, tensor in load_file(weights).items()}
    save_file(tiny, weights)
    with pytest.raises(JobFailed, match="cannot be told from the base model") as failed:
        write_probes(str(BASE_MODEL), adapter, conversations, device="cpu")
    assert failed.value.code == "training_failed"
