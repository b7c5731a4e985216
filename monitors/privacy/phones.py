"""Finds phone numbers in text: candidates by a pattern, and Google's phonenumbers library to tell whether they are any.

The library is thorough and slow, so it is asked only about what a country's numbers can look like, and about so many
candidates of a text; past that, what looks like a number is taken for one, so that nobody stops us with tables.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import phonenumbers
from phonenumbers import Leniency, PhoneMetadata, PhoneNumberMatcher

REGIONS = ("US", "GB", "DE", "FR")
"""Where numbers without a country code are taken to be from, unless the settings say otherwise."""

_CANDIDATE = re.compile(r"(?<![0-9A-Za-z])(?:\+[\s(.\-]{0,2}|\()?\d(?:[ \t().\-/\[\]~]{0,4}\d){5,19}(?![0-9A-Za-z])")
_NO_PHONE = re.compile(
    r"(?<=[A-Za-z])-(?:19|20)\d\d-\d+"  # ORD-2026-000123
    r"|(?<!\d)(?:(?:19|20)\d\d([-/.])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])([-/.])(?:0[1-9]|1[0-2])\2(?:19|20)\d\d)(?!\d)(?:[ T]\d\d(?=:))?"
)
_CONTEXT = 3
_INTERNATIONAL = re.compile(r"\+|(?<!\d)(?:00|011)")
_ZERO_FIRST = re.compile(r"(?<!\d)0")
_MOST_ASKED = 200


@dataclass(frozen=True, slots=True)
class _Region:
    """What is known of a country's numbers: the fewest digits of one, and whether each begins with its prefix, 0."""

    name: str
    fewest: int
    begins_with_zero: bool

    def may_have(self, candidate: str, digits: int) -> bool:
        if _INTERNATIONAL.search(candidate):
            return True
        return digits >= self.fewest and (not self.begins_with_zero or _ZERO_FIRST.search(candidate) is not None)


class PhoneFinder:
    """Finds the phone numbers of the world, and of some regions also without a country code.

    Raises:
        ValueError: a region that there is none of.
    """

    def __init__(self, regions: Iterable[str] = REGIONS) -> None:
        names = [name.upper() for name in regions]
        if unknown := set(names) - phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"{', '.join(sorted(unknown))} is no region of phone numbers; say such as US or DE")
        self._regions = [_region(name) for name in names]

    def __call__(self, text: str) -> Iterator[tuple[int, int]]:
        """Where numbers stand."""
        text = _NO_PHONE.sub(lambda other: "\n" * len(other[0]), text)
        asked = 0
        for match in _CANDIDATE.finditer(text):
            digits = sum(letter.isdigit() for letter in match[0])
            regions = [region.name for region in self._regions if region.may_have(match[0], digits)]
            if not regions and "+" in match[0]:
                regions = ["ZZ"]
            asked += bool(regions)
            if regions and asked > _MOST_ASKED:
                yield match.span()
                continue
            start = max(0, match.start() - _CONTEXT)
            yield from _found_in(text[start : match.end() + _CONTEXT], start, regions)


def _region(name: str) -> _Region:
    metadata = PhoneMetadata.metadata_for_region(name)
    assert metadata is not None, "the name was checked"
    assert metadata.general_desc is not None
    rules = [shape.national_prefix_formatting_rule or "" for shape in metadata.number_format]
    optional = any(shape.national_prefix_optional_when_formatting for shape in metadata.number_format)
    with_zero = sum(rule.startswith("0") for rule in rules)
    is_zero = metadata.national_prefix == "0" and not optional and 2 * with_zero >= len(rules) > 0
    return _Region(name, min(metadata.general_desc.possible_length), is_zero)


def _found_in(text: str, offset: int, regions: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The library's finds in a candidate and its context; beside one of one region there can be one of another."""
    for region in regions:
        matches = list(PhoneNumberMatcher(text, region, leniency=Leniency.VALID))
        for match in matches:
            yield offset + match.start, offset + match.end
            text = text[: match.start] + "\n" * (match.end - match.start) + text[match.end :]
        if matches and not _CANDIDATE.search(text):
            return
