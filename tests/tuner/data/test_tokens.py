"""The tokens of rows: those that the engine would read and write, and which of them are learned."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tokenizers.processors import ByteLevel
from transformers import PreTrainedTokenizerFast

from demo import BASE_DIR
from monitors.judging.golden import Message
from monitors.teaching.rows import PreferenceInput, PreferenceRow, SupervisedRow
from tests.tuner.data.files import tickets
from tuner.data.template import ChatTemplate, NotReadable
from tuner.data.tokens import (
    IGNORED,
    Encoded,
    _any_straddles,
    _labels,
    _Token,
    encode,
    encode_pair,
    load_tokenizer,
    measure,
    prompt_ids,
)
from tuner.errors import JobFailed

# As Qwen's: no generation block, a line break after each turn, instructions by default, tools written out.
CHATML = """\
{%- if tools %}<|system|>Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>
{% elif messages[0].role != 'system' %}<|system|>Help.<|end|>
{% endif %}
{%- for message in messages %}
{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>' + message.content }}
{%- for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments.order }}){% endfor %}
{{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
# As those of models that think: thoughts are left out of earlier turns.
FORGETFUL = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>' }}
{{- message.content if loop.last else message.content.split('THOUGHT')[-1] }}{{ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
PARTS = """\
{%- for message in messages %}{{ '<|' + message.role + '|>' }}
{%- for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
STRICT = "{{ raise_exception('Roles must alternate') }}"
UNASKED = """\
{%- for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>Thinking:' }}{% endif %}"""
# The space before an answer would be one token with its first word.
MERGING = """\
{%- for message in messages %}{{ message.role + ' ' + message.content + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"""


def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """The demo's tokenizer, with another template."""
    made = load_tokenizer(str(BASE_DIR))
    if template is not None:
        made.chat_template = template
    return made


def chat(*said: tuple[str, str]) -> list[Message]:
    """Messages."""
    return [Message(role, content) for role, content in said]  # type: ignore[arg-type]


def learned(encoded: Encoded, of: PreTrainedTokenizerFast) -> list[str]:
    """The runs of tokens that are learned, as text."""
    runs: list[list[int]] = [[]]
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label == IGNORED:
            runs += [[]] if runs[-1] else []
        else:
            assert label == token
            runs[-1].append(token)
    return [of.decode(run) for run in runs if run]


TURNS = chat(("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2"))


def test_the_demos_rows_have_the_tokens_that_its_template_makes() -> None:
    """Ids and mask are transformers' own, where the template tells what is generated."""
    of = tokenizer()
    for body in tickets(20):
        made = of.apply_chat_template(body["messages"], return_dict=True, return_assistant_tokens_mask=True)
        encoded = encode(SupervisedRow([Message(**message) for message in body["messages"]]), of)
        assert encoded.input_ids == made["input_ids"]
        assert [int(label != IGNORED) for label in encoded.labels] == made["assistant_masks"]
        assert learned(encoded, of) == [body["messages"][-1]["content"] + "<|end|>"]


@pytest.mark.parametrize("template", [None, CHATML, UNASKED.replace("Thinking:", "")])
def test_each_answer_is_learned_with_its_end(template: str | None) -> None:
    """Of a conversation the assistant's turns are learned, each with the token that ends it and nothing after it."""
    of = tokenizer(template)
    encoded = encode(SupervisedRow(TURNS), of)
    assert learned(encoded, of) == ["1<|end|>", "2<|end|>"]
    assert encoded.learned == 4


@pytest.mark.parametrize("template", [None, CHATML])
def test_an_answer_without_weight_is_not_learned(template: str | None) -> None:
    """A weight of 0 leaves an answer out, whoever tells where it stands."""
    of = tokenizer(template)
    messages = [*TURNS[:1], Message("assistant", "1", weight=0), *TURNS[2:]]
    assert learned(encode(SupervisedRow(messages), of), of) == ["2<|end|>"]


def test_what_comes_before_an_answer_is_what_the_engine_reads() -> None:
    """The tokens before the last answer are the prompt's, also where a token could reach over into the answer."""
    for template in (None, CHATML, MERGING):
        of = tokenizer(template)
        of.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)  # as many have: places without spaces
        for answer in ("2", "yes", " yes", "  2", "\n\n2", "é", "🙂"):
            row = SupervisedRow([*TURNS[:-1], Message("assistant", answer)])
            asked, encoded = prompt_ids(row.prompt, of), encode(row, of)
            assert encoded.input_ids[: len(asked)] == asked
            assert encoded.labels[len(asked)] != IGNORED
            assert (
                of.decode([label for label in encoded.labels[len(asked) :] if label != IGNORED]) == answer + "<|end|>"
            )


def test_a_template_that_rewrites_earlier_turns_leaves_the_last_one() -> None:
    """An answer that reads otherwise once the conversation goes on is not learned."""
    of = tokenizer(FORGETFUL)
    messages = chat(("user", "One?"), ("assistant", "hmmTHOUGHT1"), ("user", "Two?"), ("assistant", "mhmTHOUGHT2"))
    assert learned(encode(SupervisedRow(messages), of), of) == ["mhmTHOUGHT2<|end|>"]
    nothing = [*messages[:-1], Message("assistant", "mhmTHOUGHT2", weight=0)]
    with pytest.raises(NotReadable, match="nothing of it is learned"):
        encode(SupervisedRow(nothing), of)


def test_a_template_that_asks_otherwise_than_it_writes_is_told() -> None:
    """What could not be learned as it will be asked is refused, for a row and for a pair."""
    of = tokenizer(UNASKED)
    with pytest.raises(NotReadable, match="otherwise than it asks"):
        encode(SupervisedRow(TURNS), of)
    with pytest.raises(NotReadable, match="otherwise than it asks"):
        encode_pair(pair("One?", "1", "2"), of)


def test_a_template_that_refuses_is_told() -> None:
    """A template's own words are handed on."""
    with pytest.raises(NotReadable, match="refuses it: Roles must alternate"):
        encode(SupervisedRow(TURNS), tokenizer(STRICT))


@pytest.mark.parametrize("template", [None, CHATML])
def test_typed_special_tokens_are_text(template: str | None) -> None:
    """Nobody ends a turn by typing its end: as many special tokens are read as without it."""
    of = tokenizer(template)
    typed, plain = "a<|end|><|assistant|>b", "a b"

    def special(text: str) -> int:
        encoded = encode(SupervisedRow(chat(("user", text), ("assistant", f"I read {text}"))), of)
        return sum(token in of.all_special_ids for token in encoded.input_ids)

    assert special(typed) == special(plain)
    encoded = encode(SupervisedRow(chat(("user", "?"), ("assistant", typed))), of)
    assert learned(encoded, of) == [typed.replace("<|", "< |" if template is None else "<|") + "<|end|>"]


def test_marks_that_somebody_typed_are_text() -> None:
    """The code points that mark special tokens are text where they mark none."""
    of = tokenizer(CHATML)
    text = "\ufdd099\ufdd1 and \ufdd0"
    encoded = encode(SupervisedRow(chat(("user", "?"), ("assistant", text))), of)
    assert learned(encoded, of) == [text + "<|end|>"]


def test_a_conversation_is_read_as_the_engine_reads_it() -> None:
    """Parts become one text, a call's arguments an object, tools the engine's own fields, and developers the system."""
    of = tokenizer(CHATML)
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
    messages = [
        Message("developer", "Be brief."),
        Message("system", "Be kind."),
        Message("user", [{"type": "text", "text": "Where"}, {"type": "text", "text": "is it?"}]),
        Message("assistant", None, tool_calls=[call]),
        Message("tool", "here", tool_call_id="1"),
        Message("assistant", "Here."),
    ]
    assert of.decode(prompt_ids(messages[:-1], of)) == (
        "<|system|>Be brief.\n\nBe kind.<|end|>\n<|user|>Where\nis it?<|end|>\n<|assistant|>find(7)<|end|>\n"
        "<|user|>here<|end|>\n<|assistant|>"
    )
    assert learned(encode(SupervisedRow(messages), of), of) == ["find(7)<|end|>", "Here.<|end|>"]
    tools = [{"function": {"parameters": {}, "name": "find", "other": 1}, "type": "function"}]
    text = of.decode(prompt_ids(chat(("user", "?")), of, tools))
    assert '{"type": "function", "function": {"name": "find", "description": null, "parameters": {}}}' in text


def test_a_template_that_reads_parts_is_given_parts() -> None:
    """Templates for texts and pictures may not take a plain text."""
    of = tokenizer(PARTS)
    row = SupervisedRow(chat(("user", "One <|end|>?"), ("assistant", "1")))
    assert of.decode(prompt_ids(row.prompt, of)) == "<|user|>One <|end|>?<|end|><|assistant|>"
    assert prompt_ids(row.prompt, of).count(of.eos_token_id) == 1
    assert learned(encode(row, of), of) == ["1<|end|>"]


def pair(question: str, better: str, worse: str) -> PreferenceRow:
    """A pair."""
    return PreferenceRow(
        PreferenceInput(chat(("user", question))), chat(("assistant", better)), chat(("assistant", worse))
    )


@pytest.mark.parametrize("template", [None, CHATML, MERGING])
def test_a_pair_has_a_prompt_and_two_answers(template: str | None) -> None:
    """Prompt and answer are the tokens that a conversation of both has."""
    of = tokenizer(template)
    encoded = encode_pair(pair("One?", "yes", "no <|end|>"), of)
    assert encoded.prompt_ids == prompt_ids(chat(("user", "One?")), of)
    whole = encode(SupervisedRow(chat(("user", "One?"), ("assistant", "yes"))), of)
    assert encoded.chosen_ids == [label for label in whole.labels if label != IGNORED]
    assert of.decode(encoded.rejected_ids).endswith("<|end|>")
    assert encoded.rejected_ids.count(of.eos_token_id) == 1
    assert measure(pair("One?", "yes", "no <|end|>"), of).tokens == len(encoded.prompt_ids) + len(encoded.rejected_ids)


def test_a_tokenizer_that_cannot_be_used_is_told(tmp_path: object) -> None:
    """There must be a tokenizer, and a template to write conversations with."""
    with pytest.raises(JobFailed) as failed:
        load_tokenizer(str(tmp_path))
    assert failed.value.code == "unservable"
    assert str(tmp_path) not in failed.value.message
    bare = tokenizer()
    bare.chat_template = None
    bare.save_pretrained(str(tmp_path))
    with pytest.raises(JobFailed, match="no chat template"):
        load_tokenizer(str(tmp_path))


def long_talk(turns: int) -> SupervisedRow:
    """A conversation of many turns."""
    said = [(role, f"{word} {turn}") for turn in range(turns) for role, word in (("user", "ask"), ("assistant", "say"))]
    return SupervisedRow(chat(*said))


def work_of(act: Callable[[], object]) -> int:
    """How many calls of Python's functions something takes, in place of its time."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def test_many_turns_take_no_more_work_than_their_tokens() -> None:
    """Four times the turns are four times the work, where the template tells what is learned."""
    of = tokenizer()
    encode(long_talk(2), of)
    few, many = (work_of(partial(encode, long_talk(turns), of)) for turns in (25, 100))
    assert many < 5 * few
    assert learned(encode(long_talk(9), of), of) == [f"say {turn}<|end|>" for turn in range(9)]


@pytest.mark.parametrize("template", [None, CHATML])
def test_what_is_too_long_is_refused_before_its_turns_are_looked_for(
    template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rendering tells; a conversation that fits is told nothing, and neither is anything without a limit."""
    of = tokenizer(template)
    row = long_talk(50)
    size = measure(row, of)
    assert measure(row, of, size.tokens) == size
    rendered = 0
    whole = ChatTemplate._render

    def counted(*arguments: Any, **named: Any) -> str:
        nonlocal rendered
        rendered += 1
        return whole(*arguments, **named)

    monkeypatch.setattr(ChatTemplate, "_render", counted)
    with pytest.raises(NotReadable, match=f"it has {size.tokens:,} tokens, more than the {size.tokens - 1:,} that"):
        measure(row, of, size.tokens - 1)
    assert rendered <= 1


def test_a_pair_that_is_too_long_is_refused() -> None:
    """By its longer answer."""
    of = tokenizer()
    row = pair("One?", "yes", "no, never at all")
    size = measure(row, of)
    assert measure(row, of, size.tokens) == size
    with pytest.raises(NotReadable, match="more than the"):
        measure(row, of, size.tokens - 1)


def test_labels_are_those_of_the_spans() -> None:
    """A token is learned that begins in a span, also a first or a last one; one between two spans is not."""
    tokens = [_Token(number, number, number + 1) for number in range(6)]
    assert _labels(tokens, [(0, 2), (4, 6)]) == [0, 1, IGNORED, IGNORED, 4, 5]
    assert _labels(tokens, []) == [IGNORED] * 6
    assert not _any_straddles(tokens, [0, 3, 6])
    assert _any_straddles([*tokens, _Token(6, 6, 9)], [1, 7])
