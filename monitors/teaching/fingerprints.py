"""What makes two prompts, or two rows, the same: hashes of their text, with case, spaces and Unicode variants evened.

The hashes decide the order and the split of rows, so they must never change: a row that was held out for one version
must be held out for the next.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from monitors.judging.golden import Message
from monitors.teaching.rows import PreferenceRow, Row

_BETWEEN = "\x1e"
_BYTES = 16


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hashes of a row: of its prompt, and of the prompt with its answers and tools."""

    prompt: bytes
    row: bytes


def normalized(text: str) -> str:
    """A text without what two people may write differently: NFKC, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fingerprint(row: Row) -> Fingerprint:
    """The hashes of a row."""
    tools = row.input.tools if isinstance(row, PreferenceRow) else row.tools
    prompt = prompt_text(row)
    parts = [prompt, *answer_texts(row), json.dumps(tools)]
    return Fingerprint(_hash("prompt", [prompt]), _hash("row", parts))


def earlier_prompts(row: Row) -> dict[int, bytes]:
    """The hashes of the prompts of all answers but the last in a conversation, by the place of their answer."""
    if isinstance(row, PreferenceRow):
        return {}
    places = [place for place, message in enumerate(row.messages[:-1]) if message.role == "assistant"]
    turns = [_turn_text(message) for message in row.messages[: places[-1]]] if places else []
    return {place: _hash("prompt", [_BETWEEN.join(turns[:place])]) for place in places}


def learned_inside(row: Row) -> list[bytes]:
    """The hashes of the prompts of those answers but the last that are learned."""
    if isinstance(row, PreferenceRow):
        return []
    return [prompt for place, prompt in earlier_prompts(row).items() if row.messages[place].weight != 0]


def prompt_text(row: Row) -> str:
    """The normalized text of what a row's last answer, or pair of answers, is to."""
    return conversation_text(row.prompt)


def answer_texts(row: Row) -> list[str]:
    """The normalized texts of a row's last answer, or of its better and its worse one."""
    if isinstance(row, PreferenceRow):
        return [conversation_text(row.preferred_output), conversation_text(row.non_preferred_output)]
    return [conversation_text(row.messages[-1:])]


def conversation_text(messages: Sequence[Message]) -> str:
    """The normalized text of some messages, with who said what."""
    return _BETWEEN.join(map(_turn_text, messages))


def _turn_text(message: Message) -> str:
    return f"{message.role}{_BETWEEN}{normalized(_said(message))}"


def _said(message: Message) -> str:
    """A message's words and its tool calls, but not their ids, which are drawn anew for each conversation."""
    content = message.content or ""
    texts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    calls = [json.dumps(call.get("function"), sort_keys=True) for call in message.tool_calls or ()]
    return "\n".join([*texts, *calls])


def _hash(kind: str, parts: Sequence[str]) -> bytes:
    """A hash of some texts: uniform, and the same on each machine."""
    digest = hashlib.blake2b(digest_size=_BYTES, person=kind.encode())
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()
