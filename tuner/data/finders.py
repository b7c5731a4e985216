"""Finds personal data and secrets in texts by their form."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from monitors.privacy.redaction import KINDS, Redactor
from tuner.data.reading import LONGEST_LINE_BYTES

Found = tuple[str, str]
"""A text that is personal data, and its kind, such as ``EMAIL_ADDRESS``."""
_SURE = 0.5
_RECOGNIZERS = (
    "CreditCardRecognizer",
    "CryptoRecognizer",
    "EmailRecognizer",
    "IbanRecognizer",
    "IpRecognizer",
    "NhsRecognizer",
    "PhoneRecognizer",
    "UsItinRecognizer",
    "UsSsnRecognizer",
)
_OWN_KINDS = {
    "card": "CREDIT_CARD",
    "email": "EMAIL_ADDRESS",
    "iban": "IBAN_CODE",
    "ip": "IP_ADDRESS",
    "phone": "PHONE_NUMBER",
}
_REDACTED = re.compile(r"\[(?:{})\]".format("|".join(kind.upper() for kind in KINDS)))


class Finder(Protocol):
    """Finds personal data by its form."""

    name: str

    def find(self, text: str) -> list[Found]:
        """What a text has of it."""
        ...


class PatternFinder:
    """What the gateway takes out of stored prompts."""

    name = "patterns"

    def __init__(self) -> None:
        self._redactor = Redactor()

    def find(self, text: str) -> list[Found]:
        """What it takes out, told by what is left: the text between the placeholders stays as it is."""
        plain = _REDACTED.sub(lambda found: f"({found[0][1:-1]})", text)  # those that stood there already
        redacted = self._redactor.redact(plain)
        if not redacted.found:
            return []
        between = map(re.escape, _REDACTED.split(redacted.text))
        match = re.fullmatch("(.+?)".join(between), plain, re.DOTALL)
        values = match.groups() if match else ()
        return [
            (value, _OWN_KINDS.get(kind, kind.upper())) for value, kind in zip(values, redacted.found, strict=False)
        ]


class PresidioFinder:
    """Presidio's recognizers of patterns, without a language model and without downloading anything.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self) -> None:
        self._analyzer = _analyzer()
        self.name = f"presidio-analyzer {version('presidio-analyzer')}"

    def find(self, text: str) -> list[Found]:
        """What is found with some certainty; of finds that overlap, the surer and then the longer one."""
        results = self._analyzer.analyze(text, "en", score_threshold=_SURE)
        results.sort(key=lambda each: (-each.score, each.start - each.end, each.start, each.entity_type))
        taken: list[Any] = []
        for each in results:
            if all(each.end <= other.start or other.end <= each.start for other in taken):
                taken.append(each)
        return [(text[each.start : each.end], each.entity_type) for each in taken]


Finders = Callable[[], Sequence[Finder]]
"""Makes finders, which may take seconds."""


def finders() -> list[Finder]:
    """Presidio where it is installed, and the gateway's patterns."""
    try:
        return [PresidioFinder(), PatternFinder()]
    except ImportError:
        return [PatternFinder()]


def _analyzer() -> Any:
    # An extra, and slow to import.
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from tldextract import tldextract

    class Tokenizer(SpacyNlpEngine):  # type: ignore[misc]  # untyped
        """Words alone: the usual engine downloads a language model."""

        def load(self) -> None:
            """Begin."""
            words = spacy.blank("en")
            words.max_length = LONGEST_LINE_BYTES
            self.nlp = {"en": words}

    tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())  # the list that it ships
    words = Tokenizer()
    words.load()
    recognizers = [getattr(predefined_recognizers, name)() for name in _RECOGNIZERS]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=words, supported_languages=["en"])
