"""The token ids of a row, and which of them are learned.

Training takes exactly these, so nothing is truncated or left out in silence. What is learned are the assistant's turns
whose `weight` is not 0, each with the token that ends it. Where they stand is told by the chat template itself, if it
has ``{% generation %}``; else by writing the conversation up to each turn, without and with it. A template that writes
earlier turns otherwise once the conversation goes on leaves only the last turn to be learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from monitors.judging.golden import Message
from tuner.data.rows import PreferenceRow, Row, SupervisedRow
from tuner.data.template import ChatTemplate, NotReadable, Span
from tuner.errors import JobFailed

IGNORED = -100
"""The label of a token that is not learned, as torch's cross entropy has it."""
_QUIET = {"verbose": False}  # rows that are too long are told of by whoever asked
Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation; `labels` has the token's id where it is learned, else `IGNORED`."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A prompt with its better and its worse answer, each with the token that ends it."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True, slots=True)
class Size:
    """How many tokens a row has, and how many of them are learned; a pair has those of its longer answer."""

    tokens: int
    learned: int


@dataclass(frozen=True, slots=True)
class _Token:
    id: int
    start: int
    end: int


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, from its folder or Hugging Face id.

    Raises:
        JobFailed: there is none that training can use.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise JobFailed("unservable", "the base model's tokenizer cannot be loaded") from error
    if not tokenizer.is_fast:
        raise JobFailed("unservable", "the base model's tokenizer is not a fast one (it has no tokenizer.json)")
    if tokenizer.chat_template is None:
        raise JobFailed("unservable", "the base model's tokenizer has no chat template to write conversations with")
    return tokenizer


def encode(row: SupervisedRow, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A conversation's tokens.

    Raises:
        NotReadable: the template does not take it, or nothing of it can be learned.
    """
    text, spans = _learned(row, _template(tokenizer), tokenizer.eos_token)
    tokens = _tokens(text, tokenizer)
    if any(_straddles(token, start) for start, _ in spans for token in tokens):
        # The engine reads what comes before an answer by itself, so no token reaches over.
        tokens = _tokens(text, tokenizer, cuts=[start for start, _ in spans])
    labels = [token.id if _is_within(token, spans) else IGNORED for token in tokens]
    encoded = Encoded([token.id for token in tokens], labels)
    if not encoded.learned:
        raise NotReadable("nothing of it is learned: each answer has the weight 0 or is rewritten by the template")
    return encoded


def encode_pair(row: PreferenceRow, tokenizer: PreTrainedTokenizerBase) -> EncodedPair:
    """A pair's tokens.

    Raises:
        NotReadable: the template does not take it.
    """
    tools = row.input.tools
    prompt = prompt_ids(row.prompt, tokenizer, tools)
    chosen = _answer_ids(row.prompt, row.preferred_output[0], tokenizer, tools, prompt)
    rejected = _answer_ids(row.prompt, row.non_preferred_output[0], tokenizer, tools, prompt)
    return EncodedPair(prompt, chosen, rejected)


def prompt_ids(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, tools: Tools = None) -> list[int]:
    """What the engine reads before it answers these messages.

    Raises:
        NotReadable: the template does not take them.
    """
    text = _template(tokenizer).render(messages, tools, ask=True)
    return [token.id for token in _tokens(text, tokenizer)]


def measure(row: Row, tokenizer: PreTrainedTokenizerBase) -> Size:
    """How long a row is.

    Raises:
        NotReadable: the template does not take it, or nothing of it can be learned.
    """
    if isinstance(row, SupervisedRow):
        encoded = encode(row, tokenizer)
        return Size(len(encoded.input_ids), encoded.learned)
    pair = encode_pair(row, tokenizer)
    longer = max(len(pair.chosen_ids), len(pair.rejected_ids))
    return Size(len(pair.prompt_ids) + longer, longer)


def _answer_ids(
    prompt: list[Message], answer: Message, tokenizer: PreTrainedTokenizerBase, tools: Tools, asked: list[int]
) -> list[int]:
    """An answer's tokens after those of its prompt."""
    template = _template(tokenizer)
    before = template.render(prompt, tools, ask=True)
    text = template.render([*prompt, answer], tools)
    if not text.startswith(before):
        raise NotReadable("the base model's chat template writes an answer otherwise than it asks for one")
    end = _end(text, (len(before), len(text)), tokenizer.eos_token)
    tokens = _tokens(text[:end], tokenizer)
    if [token.id for token in tokens[: len(asked)]] != asked:
        tokens = _tokens(text[:end], tokenizer, cuts=[len(before)])
    return [token.id for token in tokens if token.start >= len(before)]


@lru_cache(maxsize=4)
def _template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    return ChatTemplate(tokenizer)


def _learned(row: SupervisedRow, template: ChatTemplate, eos: str | None) -> tuple[str, list[Span]]:
    """A conversation's text, and where in it stands what is learned."""
    answers = [place for place, message in enumerate(row.messages) if message.role == "assistant"]
    if template.tells_what_is_generated:
        text, spans = template.generated(row.messages, row.tools)
        if len(spans) == len(answers):  # else the template has its own idea of a turn, and weights fit none
            told = zip(answers, spans, strict=True)
            return text, [span for place, span in told if row.messages[place].weight != 0]
    text = template.render(row.messages, row.tools)
    wanted = [place for place in answers if row.messages[place].weight != 0]
    found = (_turn(row, place, text, template) for place in wanted)
    return text, [(span[0], _end(text, span, eos)) for span in found if span is not None]


def _turn(row: SupervisedRow, place: int, text: str, template: ChatTemplate) -> Span | None:
    """Where one of the assistant's turns stands; None where the template writes it otherwise later on."""
    is_last = place == len(row.messages) - 1
    before = template.render(row.messages[:place], row.tools, ask=True)
    after = text if is_last else template.render(row.messages[: place + 1], row.tools)
    if after.startswith(before) and text.startswith(after):
        return len(before), len(after)
    if is_last:
        raise NotReadable("the base model's chat template writes an answer otherwise than it asks for one")
    return None


def _end(text: str, span: Span, eos: str | None) -> int:
    """Where a turn ends for the model: after the token that ends it, without white space that templates add."""
    start, end = span
    at = text.rfind(eos, start, end) if eos else -1
    after = at + len(eos or "")
    return after if at >= 0 and not text[after:end].strip() else end


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase, cuts: Sequence[int] = ()) -> list[_Token]:
    """A rendered text's tokens and where they stand in it; none reaches over a cut."""
    tokens = []
    for piece in _template(tokenizer).pieces(text):
        start, end = piece.span
        if piece.is_typed:
            ids = tokenizer(piece.text, add_special_tokens=False, split_special_tokens=True, **_QUIET)["input_ids"]
            tokens += [_Token(each, start, end) for each in ids]
            continue
        edges = [start, *(cut for cut in cuts if start < cut < end), end]
        for first, last in pairwise(edges):
            tokens += _plain(text[first:last], first, tokenizer)
    return tokens


def _plain(text: str, offset: int, tokenizer: PreTrainedTokenizerBase) -> list[_Token]:
    """A text's tokens; one begins where the one before ended, for many tokenizers do not count leading spaces."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=False, **_QUIET)
    tokens: list[_Token] = []
    reached = offset
    for each, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        tokens.append(_Token(each, min(offset + start, reached), offset + end))
        reached = max(reached, offset + end)
    return tokens


def _straddles(token: _Token, place: int) -> bool:
    return token.start < place < token.end


def _is_within(token: _Token, spans: Sequence[Span]) -> bool:
    return any(start <= token.start < end for start, end in spans)
