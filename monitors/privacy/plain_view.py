"""Text as it is meant, with the way back to where each character came from: escapes resolved, disguises taken off."""

import re
import unicodedata
from dataclasses import dataclass
from html import unescape

_HEX = "[0-9A-Fa-f]"
_NEXT = rf"%(?:25)*[89ABab]{_HEX}"
_ESCAPE = re.compile(
    rf"%(?:25)*(?P<url>[2-7]{_HEX})"
    rf"|(?P<utf8>%(?:25)*[CDcd]{_HEX}{_NEXT}|%(?:25)*[Ee]{_HEX}{_NEXT}{_NEXT})"
    r"|&(?:#(?:[0-9]{1,6}|[xX][0-9A-Fa-f]{1,5})|commat|period|plus|nbsp|dash|hyphen|colon|sol|lowbar|num);"
    rf"|(?<!\\)\\++u00(?P<json>[2-7]{_HEX})"
)
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u2043"
_LIKE_ASCII = dict.fromkeys(_DASHES, "-") | {"\u2024": ".", "\u3002": ".", "\u2044": "/"}
_LEAST_OF_UNICODE = 128


@dataclass(frozen=True, slots=True)
class PlainView:
    """A text to search in. `starts` and `ends` tell for each character what it stands for; None where it is itself."""

    text: str
    starts: list[int] | None = None
    ends: list[int] | None = None

    def original(self, start: int, stop: int) -> tuple[int, int]:
        """Where a part that is not empty stands in the original."""
        if self.starts is None or self.ends is None:
            return start, stop
        return self.starts[start], self.ends[stop - 1]


def plain_view(text: str) -> PlainView:
    """The text with digits and letters of every width as ASCII, one kind of dash, and nothing invisible in it."""
    if text.isascii() and not _ESCAPE.search(text):
        return PlainView(text)
    letters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    place = 0
    while place < len(text):
        escape = _ESCAPE.match(text, place) if text[place] in "%&\\" else None
        stop = escape.end() if escape else place + 1
        letter = _plain(_resolve(escape) if escape else text[place])
        if letter:
            letters.append(letter)
            starts.append(place)
            ends.append(stop)
        place = stop
    return PlainView("".join(letters), starts, ends)


def _resolve(escape: re.Match[str]) -> str:
    code = escape["url"] or escape["json"]
    if escape["utf8"]:
        codes = re.findall(rf"%(?:25)*({_HEX}{{2}})", escape[0])
        return bytes.fromhex("".join(codes)).decode("utf-8", "replace")
    return chr(int(code, 16)) if code else unescape(escape[0])


def _plain(letter: str) -> str:
    """What a character looks like; empty if it cannot be seen. Its length is at most one."""
    if len(letter) != 1 or ord(letter) < _LEAST_OF_UNICODE:
        return letter[:1]
    if letter in _LIKE_ASCII:
        return _LIKE_ASCII[letter]
    category = unicodedata.category(letter)
    if category in ("Cf", "Mn", "Me"):  # zero-width spaces, soft hyphens, marks laid over a letter
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if category == "Zs":
        return " "
    folded = unicodedata.normalize("NFKC", letter)
    return folded if len(folded) == 1 else letter
