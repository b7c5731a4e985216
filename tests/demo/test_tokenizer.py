"""The tokenizer that ships, and its chat template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo import BASE_DIR
from demo.tokenizer import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS


def load() -> PreTrainedTokenizerFast:
    """The tokenizer as the engine loads it."""
    return AutoTokenizer.from_pretrained(str(BASE_DIR), local_files_only=True)


TOKENIZER = load()
SPECIAL_IDS = set(TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)))


def render(*turns: tuple[str, str], prompt: bool = False) -> list[int]:
    """Token ids of a conversation."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return list(TOKENIZER.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"])


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    """Decoding what was encoded gives the same text, whatever its script."""
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_pad_and_end_are_tokens_of_their_own() -> None:
    """Padding never looks like the end of a turn."""
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token) == (PAD, END)
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert len(SPECIAL_IDS) == len(SPECIAL_TOKENS)


def test_digits_stand_alone() -> None:
    """An order number is one token per digit."""
    assert TOKENIZER.tokenize("40213") == list("40213")


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
@given(pieces=st.lists(st.sampled_from([*SPECIAL_TOKENS, "<", "|", "<|", "|>", "end", "a", " "])))
def test_typed_special_tokens_stay_text(role: str, pieces: list[str]) -> None:
    """A message has the special tokens of its frame and no more, whatever somebody typed."""
    plain = [token for token in render((role, "a")) if token in SPECIAL_IDS]
    typed = [token for token in render((role, "".join(pieces))) if token in SPECIAL_IDS]
    assert typed == plain


def test_each_turn_ends() -> None:
    """The assistant's turn ends with the end token, and a prompt ends where the assistant begins."""
    assert render(("user", "hi"), ("assistant", "ok"))[-1] == TOKENIZER.eos_token_id
    assert render(("user", "hi"), prompt=True)[-1] == TOKENIZER.convert_tokens_to_ids("<|assistant|>")


def test_a_prompt_is_the_start_of_its_conversation() -> None:
    """What the model was trained on begins with exactly what it is asked with."""
    prompt = render(("user", "hi there"), prompt=True)
    assert render(("user", "hi there"), ("assistant", "ok"))[: len(prompt)] == prompt


def test_the_mask_covers_the_assistants_tokens_alone() -> None:
    """Each answer with its end is learned, and nothing else of a conversation is."""
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "second")]
    rendered = TOKENIZER.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    assert TOKENIZER.decode([token for token, masked in pairs if masked]) == f"first{END}second{END}"


def test_the_template_that_ships_is_the_recipes() -> None:
    """The file beside the weights is what the recipe would write."""
    assert (BASE_DIR / "chat_template.jinja").read_text().strip() == CHAT_TEMPLATE.strip()
