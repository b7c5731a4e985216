# ruff: noqa: RUF001 - some of it is Russian and Chinese
"""Refusals, and what only sounds like one."""

import pytest

from monitors.judging.refusals import OPENING, PATTERNS, refused

REFUSALS = {
    "en": [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot assist with this request.",
        "I can't provide instructions for that.",
        "I won't be able to do that.",
        "As an AI language model, I cannot do so.",
        "I must respectfully decline this request.",
        "I'm unable to answer.",
        "That violates our content policy.",
    ],
    "de": [
        "Es tut mir leid, aber dabei kann ich dir nicht helfen.",
        "Ich kann Ihnen dazu keine Auskunft geben.",
        "Das kann ich leider nicht beantworten.",
    ],
    "fr": ["Je suis désolé, mais je ne peux pas vous aider avec cela.", "Je ne suis pas en mesure de répondre."],
    "es": ["Lo siento, pero no puedo ayudarte con eso.", "No puedo proporcionar esa información."],
    "it": ["Mi dispiace, ma non posso aiutarti.", "Non sono in grado di rispondere."],
    "pt": ["Desculpe, mas não posso ajudar com isso.", "Não consigo responder a isso."],
    "nl": ["Het spijt me, maar daar kan ik je niet bij helpen.", "Ik kan je hier helaas niet mee helpen."],
    "pl": ["Przykro mi, ale nie mogę w tym pomóc."],
    "ru": ["Извините, я не могу помочь с этим.", "К сожалению, я не могу выполнить этот запрос."],
    "zh": ["抱歉，我无法回答这个问题。", "对不起，我不能提供这些信息。"],
    "ja": [
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "申し訳ございませんが、その情報の提供はできません。",
    ],
}
ANSWERS = [
    "",
    "I can help with that.",
    "I can't wait to help you!",
    "You can't help but smile at this.",
    "If you cannot log in, reset your password.",
    "Sorry for the delay! Your parcel ships today.",
    "The server cannot provide a list.",
    "The customer says: I cannot log in.",
    '{"intent": "refund"}',
    "Ich kann dir helfen. Das ist nicht schwer.",
    "Das kann nicht sein: die Rechnung ist bezahlt.",
    "Je ne pense pas que ce soit un problème.",
    "No hay problema, puedes hacerlo así.",
    "Non c'è problema.",
    "Não há problema, posso ajudar.",
    "Ik kan je helpen.",
    "Nie ma problemu, mogę pomóc.",
    "Не беспокойтесь, я могу помочь.",
    "这个函数不能返回空值。",
    "できますよ。",
]


def test_every_language_is_tried() -> None:
    """No pattern stands there untested."""
    assert REFUSALS.keys() == PATTERNS.keys()


@pytest.mark.parametrize("answer", [answer for answers in REFUSALS.values() for answer in answers])
def test_a_refusal_is_seen(answer: str) -> None:
    """In each language, in upper case, and over several lines."""
    assert refused(answer)
    assert refused("\n " + answer.upper().replace(" ", "\n"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_no_refusal(answer: str) -> None:
    """Also where it says that something cannot be done."""
    assert not refused(answer)


def test_only_the_opening_counts() -> None:
    """What an answer says later is part of an answer."""
    assert not refused("Here is the letter. " * (OPENING // 20) + "I cannot help with that.")
