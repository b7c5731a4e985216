"""Personal data in rows."""

import json
import socket
from typing import Any

import pytest

from monitors.drifting.windows import comparable
from monitors.judging.golden import Message
from monitors.teaching.checking import problem_of
from monitors.teaching.rows import PreferenceInput, PreferenceRow, SupervisedRow
from tuner.data.finders import Finder, Found, PatternFinder, PresidioFinder
from tuner.data.personal import Cleaner
from tuner.data.reading import decode, encode


@pytest.fixture(scope="module")
def presidio() -> PresidioFinder:
    """Presidio, which takes seconds to load."""
    return PresidioFinder()


@pytest.fixture(scope="module")
def finders(presidio: PresidioFinder) -> list[Finder]:
    """What a tuner with the extra `pii` looks with."""
    return [presidio, PatternFinder()]


def row(question: str, answer: str, **fields: Any) -> SupervisedRow:
    """A row."""
    return SupervisedRow([Message("user", question), Message("assistant", answer, **fields)])


def cleaned(question: str, answer: str, finders: list[Finder]) -> list[Any]:
    """What is said in a row without personal data."""
    found = Cleaner(finders).clean(row(question, answer))
    assert isinstance(found, SupervisedRow)
    return [message.content for message in found.messages]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jane.doe@example.com", "EMAIL_ADDRESS"),
        ("4111 1111 1111 1111", "CREDIT_CARD"),
        ("DE89 3704 0044 0532 0130 00", "IBAN_CODE"),
        ("10.11.12.13", "IP_ADDRESS"),
        ("+1 415-555-0132", "PHONE_NUMBER"),
        ("536-90-4399", "US_SSN"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "CRYPTO"),
    ],
)
def test_what_has_a_form_is_replaced(text: str, kind: str, finders: list[Finder]) -> None:
    """Each kind is replaced by its own placeholder, in the prompt and in the answer."""
    asked, answered = cleaned(f"My SSN or the like is {text}, thanks.", f"I noted {text}.", finders)
    assert asked == f"My SSN or the like is <{kind}>, thanks."
    assert answered == f"I noted <{kind}>."
    assert comparable(asked) == "My SSN or the like is [REDACTED], thanks.", "drift knows it for a placeholder"


def test_what_is_no_personal_data_stays(finders: list[Finder]) -> None:
    """Order numbers, dates, amounts and names of products are left as they are."""
    said = "Order 48213 of 2024-01-05, 5 of 10 lamps X-200 for 120 euros, version 1.2.3, [EMAIL] and <b>."
    cleaner = Cleaner(finders)
    whole = row(said, '{"order": 48213}')
    assert cleaner.clean(whole) is whole
    assert (cleaner.rows, dict(cleaner.found)) == (0, {})


def test_secrets_are_replaced_everywhere(finders: list[Finder]) -> None:
    """What only its words give away in the prompt is replaced in the answer, too."""
    asked, answered = cleaned("my password: hunter2xyz, [SECRET] stood there", "Never tell hunter2xyz!", finders)
    assert asked == "my password: <SECRET>, [SECRET] stood there"
    assert answered == "Never tell <SECRET>!"


def test_json_stays_json(finders: list[Finder]) -> None:
    """A number in JSON becomes a text, and text around it stays as it is spelt."""
    asked, answered = cleaned("Card 4111111111111111 of a@example.com", '{"card": 4111111111111111}', finders)
    assert asked == "Card <CREDIT_CARD> of <EMAIL_ADDRESS>"
    assert json.loads(answered) == {"card": "<CREDIT_CARD>"}
    _, spelt = cleaned("Mail a@example.com", '{"mail":"a@example.com",  "é": 1}', finders)
    assert spelt == '{"mail":"<EMAIL_ADDRESS>",  "é": 1}'


def test_all_of_a_row_is_searched(finders: list[Finder]) -> None:
    """Parts and the arguments of tool calls are searched as well, and each replacement is counted."""
    call = {"id": "1", "type": "function", "function": {"name": "mail", "arguments": '{"to": "a@example.com"}'}}
    whole = SupervisedRow(
        [
            Message("user", [{"type": "text", "text": "Mail a@example.com"}]),
            Message("assistant", None, tool_calls=[call]),
        ]
    )
    cleaner = Cleaner(finders)
    found = cleaner.clean(whole)
    assert isinstance(found, SupervisedRow)
    assert found.messages[0].content == [{"type": "text", "text": "Mail <EMAIL_ADDRESS>"}]
    assert found.messages[1].tool_calls is not None
    assert found.messages[1].tool_calls[0]["function"]["arguments"] == '{"to": "<EMAIL_ADDRESS>"}'
    assert (cleaner.rows, dict(cleaner.found)) == (1, {"EMAIL_ADDRESS": 2})


def test_all_of_a_row_that_is_read_is_replaced() -> None:
    """Names of speakers, what tools say of themselves, names of functions, and the label; ids of calls stay."""
    mail, card = "jane.doe@example.com", 4111111111111111
    call = {"id": f"to {mail}", "type": "function", "function": {"name": "send", "arguments": f'{{"to": "{mail}"}}'}}
    about = {"description": f"Mails {mail}.", "parameters": {"properties": {mail: {"examples": [card, 7, True]}}}}
    tools = [{"type": "function", "function": {"name": "send", **about}}]
    messages = [
        Message("user", "Tell her.", name=mail),
        Message("assistant", None, tool_calls=[call]),
        Message("tool", "done", tool_call_id=f"to {mail}"),
        Message("assistant", "Done."),
    ]
    cleaner = Cleaner([PatternFinder()])
    found = cleaner.clean(SupervisedRow(messages, tools, label=f"of {mail}"))
    assert isinstance(found, SupervisedRow)
    assert problem_of(found) is None
    assert found.messages[0].name == "<EMAIL_ADDRESS>"
    assert found.messages[1].tool_calls == [
        {**call, "function": {"name": "send", "arguments": '{"to": "<EMAIL_ADDRESS>"}'}}
    ]
    assert found.tools == [
        {
            "type": "function",
            "function": {
                "name": "send",
                "description": "Mails <EMAIL_ADDRESS>.",
                "parameters": {"properties": {"<EMAIL_ADDRESS>": {"examples": ["<CREDIT_CARD>", 7, True]}}},
            },
        }
    ]
    assert found.label == "of <EMAIL_ADDRESS>"
    assert dict(cleaner.found) == {"EMAIL_ADDRESS": 5, "CREDIT_CARD": 1}


@pytest.mark.parametrize("at", ["name", "tools", "label"])
def test_each_of_these_is_searched_by_itself(at: str) -> None:
    """Also where nothing else of the row has it, of rows and of pairs."""
    mail = "jane.doe@example.com"
    tools = [{"type": "function", "function": {"name": "send", "description": mail}}] if at == "tools" else None
    asked = [Message("user", "Who?", name=mail if at == "name" else None)]
    label, said = mail if at == "label" else None, [Message("assistant", "She.")]
    for row in (
        SupervisedRow([*asked, *said], tools, label=label),
        PreferenceRow(PreferenceInput(asked, tools), said, [Message("assistant", "He.")], label=label),
    ):
        found = encode(Cleaner([PatternFinder()]).clean(row))
        assert mail.encode() not in found
        assert b"<EMAIL_ADDRESS>" in found


def test_a_label_stays_short_enough() -> None:
    """A placeholder may be longer than what it stands for."""
    found = Cleaner([PatternFinder()]).clean(SupervisedRow(row("?", "!").messages, label="a@b.co " + "x" * 193))
    assert isinstance(found, SupervisedRow)
    assert found.label == "<EMAIL_ADDRESS> " + "x" * 184
    assert decode(encode(found), "supervised") == found


def test_pairs_are_searched(finders: list[Finder]) -> None:
    """Both answers of a pair are searched."""
    messages = [Message("user", "Who?")]
    better, worse = [Message("assistant", "a@example.com")], [Message("assistant", "b@example.com!")]
    found = Cleaner(finders).clean(PreferenceRow(PreferenceInput(messages), better, worse))
    assert isinstance(found, PreferenceRow)
    assert found.preferred_output[0].content == "<EMAIL_ADDRESS>"
    assert found.non_preferred_output[0].content == "<EMAIL_ADDRESS>!"


def test_without_presidio_the_gateways_patterns_look() -> None:
    """What the gateway takes out of stored prompts is found without the extra, under the same placeholders."""
    asked, answered = cleaned("Mail a@example.com", "a@example.com, +1 415-555-0132", [PatternFinder()])
    assert (asked, answered) == ("Mail <EMAIL_ADDRESS>", "<EMAIL_ADDRESS>, <PHONE_NUMBER>")


def test_short_finds_replace_nothing_elsewhere() -> None:
    """What has a letter or two would be replaced inside other words."""

    class Eager:
        name = "eager"

        def find(self, text: str) -> list[Found]:
            return [("a", "LETTER"), ("abcd", "LETTERS")]

    assert cleaned("a abcd", "banana", [Eager()]) == ["a <LETTERS>", "banana"]


def test_nothing_is_downloaded(presidio: PresidioFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with a new ending is looked up in what is installed."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert presidio.find("who@example.photography")
