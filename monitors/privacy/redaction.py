"""Takes personal data and secrets out of text before it is stored: each find becomes a placeholder such as ``[EMAIL]``.

What is looked for has a form that can be checked: addresses, numbers with check digits, keys with known prefixes. Names
and street addresses have none; they take a language model, such as Presidio's, which the gateway stays free of.
Text is read as a person or a program would: with digits of any script, without invisible characters, and with URL,
HTML and JSON escapes resolved. What is not found is told in ``docs/request-log.md``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import AddressValueError, IPv6Address
from string import hexdigits
from typing import Any

from stdnum import iban, luhn, numdb

from monitors.privacy.phones import REGIONS, PhoneFinder
from monitors.privacy.plain_view import PlainView, plain_view
from monitors.privacy.secrets import SECRETS

_Span = tuple[int, int]
_Finder = Callable[[str], Iterator[_Span]]

_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
_DOT = r"(?:\.|\s?[\[({]\s?(?:\.|dot)\s?[\])}]\s?)"
_AT = r"\s?(?:@|[\[({<]\s?(?:at|@)\s?[\])}>])\s?"
_DOMAIN = rf"(?:[\w-]++{_DOT})+(?:xn--[\w-]+|[^\W\d_]{{2,}})|\[[0-9A-Fa-f:.]+\]"
_EMAIL = re.compile(
    rf"""(?:(?<![\w.+%'~-])[\w.+%'~-]++|"[^"\n]{{1,64}}"){_AT}(?:{_DOMAIN})"""
    r"|\b\w++(?:\s+dot\s+\w++){0,3}\s+at\s+[\w-]++(?:\s+dot\s+[\w-]++){1,4}",
    re.IGNORECASE,
)
_DIGITS_APART = re.compile(r"(?<!\d)\d(?:[ \t.\-/_]{0,3}\d){12,40}(?!\d)")
_CARD_LENGTHS = range(13, 20)
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})$|(?:5[1-5]|2[2-7])\d{14}$|3[47]\d{13}$|3(?:0[0-5]|[689])\d{11,16}$"
    r"|35\d{14,17}$|6\d{15,18}$|81\d{14,17}$|(?:5[06-9]|6\d)\d{11,17}$"
)
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[ \-.]?\d[ \-.]?\d(?:[ \-.]{0,2}[0-9A-Za-z]){11,32}")
_OCTET = r"\d{1,3}"
_IPV4 = re.compile(
    rf"(?<![\d.])(?<!\d,){_OCTET}(?:{_DOT}{_OCTET}){{3}}(?!\.?\d)|(?<=\bip-){_OCTET}(?:-{_OCTET}){{3}}(?!\d)",
    re.IGNORECASE,
)
_NOT_AN_ADDRESS = re.compile(
    r"(?:\bv|\bver\.?|\b(?:version|release|build|firmware|section|chapter|clause)|§)\s?$", re.I
)
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4})(?![0-9A-Za-z:])"
)
_FEWEST_HEX = 5
"""What has fewer digits is `::1`, or more likely a slice in Python such as `1::3`."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text that may be stored; `found` are the kinds of what was taken out, in its order."""

    text: str
    found: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How much was taken out."""
        return len(self.found)


class Redactor:
    """Takes out what the settings say.

    Args:
        kinds: what to look for; see `KINDS`.
        regions: the countries (ISO 3166) of phone numbers that are written without a country code.

    Raises:
        ValueError: a kind or a region that there is none of.
    """

    def __init__(self, kinds: Iterable[str] | None = None, regions: Iterable[str] = REGIONS) -> None:
        self.kinds = tuple(KINDS) if kinds is None else tuple(kinds)
        if unknown := set(self.kinds) - KINDS.keys():
            raise ValueError(f"there is nothing to redact called {', '.join(sorted(unknown))}; say {', '.join(KINDS)}")
        finders: Mapping[str, _Finder] = {**KINDS, "phone": PhoneFinder(regions)}
        self._finders = {kind: finders[kind] for kind in KINDS if kind in self.kinds}

    def redact(self, text: str) -> Redacted:
        """The text without what was found. It raises nothing, whatever the text is."""
        if not self._finders:
            return Redacted(text)
        view = plain_view(text)
        spans = self._spans(view)
        if not spans:
            return Redacted(text)
        parts, end = [], 0
        for start, stop, kind in spans:
            parts += [text[end:start], f"[{kind.upper()}]"]
            end = stop
        return Redacted("".join([*parts, text[end:]]), tuple(kind for _, _, kind in spans))

    def redact_value(self, value: Any) -> tuple[Any, int]:
        """A value of JSON with every text in it redacted, also keys and long numbers; and how much was taken out."""
        match value:
            case str():
                redacted = self.redact(value)
                return redacted.text, redacted.count
            case bool() | None | float():
                return value, 0
            case int():
                redacted = self.redact(str(value))
                return (redacted.text, redacted.count) if redacted.count else (value, 0)
            case list():
                pairs = [self.redact_value(item) for item in value]
                return [item for item, _ in pairs], sum(count for _, count in pairs)
            case dict():
                return self._redact_object(value)
        raise TypeError(f"{type(value).__name__} is no value of JSON")

    def _redact_object(self, value: dict[str, Any]) -> tuple[dict[str, Any], int]:
        clean: dict[str, Any] = {}
        total = 0
        for key, item in value.items():
            name = self.redact(key)
            clean[name.text], count = self.redact_value(item)
            total += name.count + count
        return clean, total

    def _spans(self, view: PlainView) -> list[tuple[int, int, str]]:
        """Where in the original what stands; of finds that overlap, the kind that is asked first wins."""
        plain = _UUID.sub(_blank, view.text)
        taken: list[tuple[int, int, str]] = []
        hidden = list(plain)  # finds are blanked out, so that no other finder sees a part of them
        for kind, find in self._finders.items():
            for start, stop in find(plain):
                taken.append((*view.original(start, stop), kind))
                hidden[start:stop] = "\n" * (stop - start)
            if taken:
                plain = "".join(hidden)
        return sorted(taken)


def _blank(found: re.Match[str]) -> str:
    """In place of what is none of the kinds, although parts of it look so."""
    return "\n" * len(found[0])


def _secrets(text: str) -> Iterator[_Span]:
    """Known prefixes and forms, and what is assigned to something called a password or key."""
    end = 0
    for match in SECRETS.finditer(text):
        group = "value" if match["value"] is not None else 0
        start, stop = match.span(group)
        if start >= end:
            yield start, stop
            end = stop


def _emails(text: str) -> Iterator[_Span]:
    for match in _EMAIL.finditer(text):
        yield match.span()


def _ibans(text: str) -> Iterator[_Span]:
    """Those whose check digits are right. Words after one look like a part of it, so its country tells its length."""
    place = 0
    while match := _IBAN.search(text, place):
        places = [index for index in range(*match.span()) if text[index].isalnum()]
        length = _iban_length(match[0][:2].upper())
        if 0 < length <= len(places) and _is_iban("".join(text[index] for index in places[:length])):
            place = places[length - 1] + 1
            yield match.start(), place
        else:
            place = match.start() + 2


@cache
def _iban_length(country: str) -> int:
    """How long the country's are; 0 if it has none. Its structure stands there such as ``8!n10!n``."""
    structure = numdb.get("iban").info(country)[0][1].get("bban", "")
    lengths = [int(length) for length in re.findall(r"(\d+)!", structure)]
    return 4 + sum(lengths) if lengths else 0


def _is_iban(number: str) -> bool:
    return bool(iban.is_valid(number, check_country=False))


def _cards(text: str) -> Iterator[_Span]:
    """Numbers of a known issuer whose last digit is right, also with an expiry date or other digits beside them."""
    for match in _DIGITS_APART.finditer(text):
        yield from _cards_in(text, [index for index in range(*match.span()) if text[index].isdigit()])


def _cards_in(text: str, places: list[int]) -> Iterator[_Span]:
    """Those among digits at these places that begin and end where a group of digits does."""
    begins = [n for n, at in enumerate(places) if n == 0 or places[n - 1] != at - 1]
    ends = {n for n, at in enumerate(places, 1) if n == len(places) or places[n] != at + 1}
    done = 0
    for begin in begins:
        if begin < done:
            continue
        for length in reversed(_CARD_LENGTHS):
            stop = begin + length
            if stop in ends and _is_card("".join(text[index] for index in places[begin:stop])):
                yield places[begin], places[stop - 1] + 1
                done = stop
                break


def _is_card(digits: str) -> bool:
    return _ISSUERS.match(digits) is not None and luhn.is_valid(digits)


def _addresses(text: str) -> Iterator[_Span]:
    for match in _IPV4.finditer(text):
        octets = re.findall(r"\d+", match[0])
        before = text[max(0, match.start() - 10) : match.start()]
        if all(int(octet) < 256 for octet in octets) and not _NOT_AN_ADDRESS.search(before):
            yield match.span()
    for match in _IPV6.finditer(text):
        if _is_ipv6(match[0]):
            yield match.span()


def _is_ipv6(text: str) -> bool:
    """Whether it is one that means somebody; ``dead::beef`` is more likely a name in a program."""
    if sum(letter in hexdigits for letter in text) < _FEWEST_HEX:
        return False
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return any(letter.isdigit() for letter in text) or text.count(":") > 3


def _no_finder(_text: str) -> Iterator[_Span]:
    """In place of phone numbers, which each `Redactor` finds by its own regions."""
    return iter(())


KINDS: Mapping[str, _Finder] = {
    "secret": _secrets,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _addresses,
    "phone": _no_finder,
}
"""What can be taken out, in the order in which it is looked for: what has the strictest form comes first."""

_DEFAULT = Redactor()


def redact(text: str) -> Redacted:
    """Take out everything that is known, with phone numbers of the usual regions."""
    return _DEFAULT.redact(text)
