"""The token ids of a row, and which of them are learned.

Training takes exactly these, so nothing is truncated or left out in silence. What is learned are the assistant's turns
whose `weight` is not 0, each with the token that ends it. Where they stand is told by the chat template itself, if it
has ``{% generation %}``; else by writing the conversation up to each turn, without and with it. A template that writes
earlier turns otherwise once the conversation goes on leaves only the last turn to be learned.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from monitors.judging.golden import Message
from monitors.teaching.rows import PreferenceRow, Row, SupervisedRow
from tuner.data.template import ChatTemplate, NotReadable, Span
from tuner.errors import JobFailed

IGNORED = -100
"""The label of a token that is not learned, as torch's cross entropy has it."""
_QUIET = {"verbose": False}  # rows that are too long are told of by whoever asked
T = TypeVar("T")
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


def encode(row: SupervisedRow, tokenizer: PreTrainedTokenizerBase, longest: int = 0) -> Encoded:
    """A conversation's tokens; a row with more than `longest` is refused, unless that is 0.

    Raises:
        NotReadable: the template does not take it, it is too long, or nothing of it can be learned.
    """
    template = _template(tokenizer)
    text, spans = _marked(row, template)
    tokens = _fitting(_tokens(text, tokenizer), longest)
    if spans is None:  # only of what fits: it takes as many renderings as there are turns
        spans = _turns(row, text, template, tokenizer.eos_token)
    starts = [start for start, _ in spans]
    if _any_straddles(tokens, starts):
        # The engine reads what comes before an answer by itself, so no token reaches over.
        tokens = _fitting(_tokens(text, tokenizer, cuts=starts), longest)
    labels = _labels(tokens, spans)
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


def measure(row: Row, tokenizer: PreTrainedTokenizerBase, longest: int = 0) -> Size:
    """How long a row is; one with more than `longest` tokens is refused, unless that is 0.

    Raises:
        NotReadable: the template does not take it, it is too long, or nothing of it can be learned.
    """
    if isinstance(row, SupervisedRow):
        encoded = encode(row, tokenizer, longest)
        return Size(len(encoded.input_ids), encoded.learned)
    pair = encode_pair(row, tokenizer)
    longer = max(pair.chosen_ids, pair.rejected_ids, key=len)
    return Size(len(_fitting([*pair.prompt_ids, *longer], longest)), len(longer))


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


def _fitting(tokens: list[T], longest: int) -> list[T]:
    """The tokens, if they are not too many."""
    if 0 < longest < len(tokens):
        raise NotReadable(f"it has {len(tokens):,} tokens, more than the {longest:,} that a row may have")
    return tokens


def _marked(row: SupervisedRow, template: ChatTemplate) -> tuple[str, list[Span] | None]:
    """A conversation's text, and where in it stands what is learned, in order; None if the template does not say."""
    if template.tells_what_is_generated:
        text, spans = template.generated(row.messages, row.tools)
        answers = [message for message in row.messages if message.role == "assistant"]
        if len(spans) == len(answers):  # else the template has its own idea of a turn, and weights fit none
            return text, [span for answer, span in zip(answers, spans, strict=True) if answer.weight != 0]
    return template.render(row.messages, row.tools), None


def _turns(row: SupervisedRow, text: str, template: ChatTemplate, eos: str | None) -> list[Span]:
    """Where in a conversation's text stands what is learned, in order, by writing it up to each turn."""
    wanted = (place for place, each in enumerate(row.messages) if each.role == "assistant" and each.weight != 0)
    found = (_turn(row, place, text, template) for place in wanted)
    return [(span[0], _end(text, span, eos)) for span in found if span is not None]


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
    """A rendered text's tokens and where they stand in it; none reaches over one of the cuts, which are in order."""
    tokens = []
    for piece in _template(tokenizer).pieces(text):
        start, end = piece.span
        if piece.is_typed:
            ids = tokenizer(piece.text, add_special_tokens=False, split_special_tokens=True, **_QUIET)["input_ids"]
            tokens += [_Token(each, start, end) for each in ids]
            continue
        edges = [start, *cuts[bisect_right(cuts, start) : bisect_left(cuts, end)], end]
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


def _any_straddles(tokens: Sequence[_Token], places: Sequence[int]) -> bool:
    """Whether a token reaches over one of the places, which are in order."""
    nearest = (bisect_right(places, token.start) for token in tokens)
    return any(at < len(places) and places[at] < token.end for at, token in zip(nearest, tokens, strict=True))


def _labels(tokens: Sequence[_Token], spans: Sequence[Span]) -> list[int]:
    """Each token's id where it begins within one of the spans, which are in order and apart; else `IGNORED`."""
    starts = [start for start, _ in spans]
    before = (bisect_right(starts, token.start) - 1 for token in tokens)
    return [
        token.id if at >= 0 and token.start < spans[at][1] else IGNORED
        for at, token in zip(before, tokens, strict=True)
    ]
