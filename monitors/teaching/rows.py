"""What a row of training data is: a line of JSON, in OpenAI's formats for supervised tuning and for preferences.

supervised  {"messages": [...], "tools": [...]}             the last message is the assistant's
dpo         {"input": {"messages": [...], "tools": [...]},
             "preferred_output": [{"role": "assistant", "content": "..."}],
             "non_preferred_output": [{"role": "assistant", "content": "..."}]}

Either may say more, in fields of ours: `label`, by which splits are stratified, and `source`, where its answer came
from. A message of the assistant's with `weight` 0 is not trained on.
"""

from typing import Annotated, Any, Literal

import msgspec

from monitors.judging.golden import Message

Source = Literal["uploaded", "correction", "accepted", "teacher", "replay"]
LONGEST_LABEL = 200
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_LABEL)]


class SupervisedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A conversation whose assistant's messages are what is learned."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None
    label: Label | None = None
    source: Source = "uploaded"

    @property
    def prompt(self) -> list[Message]:
        """What comes before the last answer."""
        return self.messages[:-1]

    @property
    def answers(self) -> list[Message]:
        """The last answer, as a list of one."""
        return self.messages[-1:]


class PreferenceInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What both answers of a pair are answers to."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None


class PreferenceRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A prompt with the better and the worse answer."""

    input: PreferenceInput
    preferred_output: Annotated[list[Message], msgspec.Meta(min_length=1)]
    non_preferred_output: Annotated[list[Message], msgspec.Meta(min_length=1)]
    label: Label | None = None
    source: Source = "uploaded"

    @property
    def prompt(self) -> list[Message]:
        """What both are answers to."""
        return self.input.messages

    @property
    def answers(self) -> list[Message]:
        """The better answer and the worse one."""
        return [*self.preferred_output, *self.non_preferred_output]


Row = SupervisedRow | PreferenceRow


def text_of(message: Message) -> str:
    """What a message says, as one text: the engine puts a line break between parts."""
    if isinstance(message.content, list):
        return "\n".join(part["text"] for part in message.content)
    return message.content or ""


def can_be_scored(row: Row) -> bool:
    """Whether a model's answer can be held against the row's: against a text, but not against a call of a tool."""
    return all(answer.content and not answer.tool_calls for answer in row.answers)
