"""Prompts as support gets them, made from a seed: with personal data and secrets planted, and with what only looks so.

The values are made by the rules of their kinds (check digits, numbering plans, prefixes) and written as people and
programs write them. Nothing here knows how redaction looks for them.
"""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

import phonenumbers
from phonenumbers import PhoneNumberFormat
from stdnum import iban, luhn

_OPENINGS = (
    "Hello,",
    "Hi team,",
    "Good morning.",
    "To whom it may concern:",
    "hey",
    "Guten Tag,",
    "Bonjour,",
    "URGENT!!",
    "",
)
_STORIES = (
    "I ordered a kettle on {date} and it never arrived.",
    "the app crashes since the update to version {version}",
    "Your driver left the parcel with nobody, order {order}.",
    "We pay {price} a month and the dashboard has been down for two days.",
    "My son spilled juice over the keyboard; is that covered?",
    "After the reset the router shows a red light and no connection.",
    "The invoice of {date} says {price}, which is twice what was agreed.",
    "Kannst du mir bitte helfen? Das Gerät startet nicht mehr.",
)
_PLAIN_STORIES = [story for story in _STORIES if "{" not in story]
_CLOSINGS = (
    "Thanks!",
    "Please hurry.",
    "Regards, a customer",
    "Merci d'avance",
    "",
    "kind regards",
    "Sent from my phone",
)
_NAMES = ("john", "Maria", "o.brien", "li.wei", "anna-lena", "JSmith", "support.team", "müller", "r2d2", "x_y", "a")
_HOSTS = (
    *("example.com", "mail.example.co.uk", "Example.ORG", "sub.domain.example.net", "müller-shop.de"),
    *("uni-köln.example", "xn--mller-kva.de", "big.corp.io", "t-online.example.de"),
)


@dataclass(frozen=True)
class Planted:
    """A prompt, and what of it must not be stored: as it is written, and its bare letters and digits."""

    kind: str
    prompt: str
    written: str
    bare: str


def planted(count: int, seed: int = 1) -> list[Planted]:
    """Prompts with one value each, of every kind in turn."""
    rng = random.Random(seed)
    kinds = list(_MAKERS)
    return [_plant(rng, kinds[number % len(kinds)]) for number in range(count)]


def clean(count: int, seed: int = 2) -> list[tuple[str, str]]:
    """Prompts without any, each with something that looks like it; the name of that, and the prompt."""
    rng = random.Random(seed)
    kinds = list(_LOOKALIKES)
    found = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        found.append((kind, _prompt(rng, _LOOKALIKES[kind](rng), _PLAIN_STORIES)))
    return found


def _plant(rng: random.Random, kind: str) -> Planted:
    sentence, written, bare = _MAKERS[kind](rng)
    return Planted(kind, _prompt(rng, sentence.format(written) if "{}" in sentence else sentence), written, bare)


def _prompt(rng: random.Random, sentence: str, stories: Sequence[str] = _STORIES) -> str:
    story = rng.choice(stories).format(date=_date(rng), version=_version(rng), order=_order(rng), price=_price(rng))
    parts = [rng.choice(_OPENINGS), story, sentence, rng.choice(_CLOSINGS)]
    if rng.random() < 0.3:
        parts[1], parts[2] = parts[2], parts[1]
    return rng.choice((" ", "\n", "\n\n")).join(part for part in parts if part)


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _word(rng: random.Random, count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(rng.choices(letters, k=count))


def _fullwidth(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isdigit() else letter for letter in text)


def _arabic(text: str) -> str:
    return "".join(chr(0x660 + int(letter)) if letter.isdigit() else letter for letter in text)


def _email(rng: random.Random) -> tuple[str, str, str]:
    name = rng.choice(_NAMES) + rng.choice(("", str(rng.randint(1, 99)), "+shop"))
    host = rng.choice(_HOSTS)
    address = f"{name}@{host}"
    written = rng.choice(
        (
            *[address] * 5,
            address.upper(),
            quote(address, safe=""),
            address.replace("@", "&#64;"),
            address.replace("@", "\\u0040"),
            address.replace("@", " (at) ").replace(".", "(dot)", 1) if "." in name else address.replace("@", " [at] "),
            address.replace("@", "\u200b@\u200b"),
            address.replace("@", "\uff20"),
            address.replace("@", " @ "),
        )
    )
    sentence = rng.choice(
        (
            "Write to {}.",
            "my mail is {}",
            "<{}>",
            "mailto:{}",
            "contact={}&x=1",
            '{{"email": "{}"}}',
            "({})",
            "{}, please",
            "cc {};",
        )
    )
    return sentence, written, address


_HOME, _ABROAD = (
    ("US", "GB", "DE", "FR"),
    ("IN", "BR", "JP", "AU", "ES", "IT", "PL", "NL", "SE", "ZA", "MX", "TR", "CH"),
)


def _phone(rng: random.Random) -> tuple[str, str, str]:
    national = rng.random() < 0.5
    number = _valid_phone(rng, rng.choice(_HOME if national else _HOME + _ABROAD))
    shapes = (
        (PhoneNumberFormat.NATIONAL,)
        if national
        else (PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.RFC3966)
    )
    plain = phonenumbers.format_number(number, rng.choice(shapes)).removeprefix("tel:")
    written = rng.choice(
        (
            *[plain] * 4,
            plain.replace("-", " "),
            plain.replace(" ", "-"),
            plain.replace(" ", "."),
            plain.replace(" ", "\u00a0"),
            plain.replace("-", "\u2011"),
            plain.replace(" ", "").replace("-", ""),
            quote(plain, safe=""),
            _fullwidth(plain),
            _arabic(plain),
        )
    )
    sentence = rng.choice(
        (
            "Call me at {}.",
            "Tel: {}",
            "phone={}",
            "reach us on {} or not at all",
            "({})",
            "My number is {}, after 6 pm",
            "WhatsApp {}!",
        )
    )
    return sentence, written, "".join(filter(str.isdigit, str(number.national_number)))


def _valid_phone(rng: random.Random, region: str) -> phonenumbers.PhoneNumber:
    kind = rng.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
    example = phonenumbers.example_number_for_type(region, kind)
    assert example is not None
    digits = phonenumbers.national_significant_number(example)[:-4]
    while True:
        made = phonenumbers.parse(f"+{example.country_code}{digits}{_digits(rng, 4)}")
        if phonenumbers.is_valid_number(made):
            return made


def _card(rng: random.Random) -> tuple[str, str, str]:
    prefix, length = rng.choice(
        (("4", 16), ("51", 16), ("2345", 16), ("34", 15), ("37", 15), ("6011", 16), ("3528", 16), ("62", 16), ("4", 13))
    )
    body = prefix + _digits(rng, length - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    places = [sum(sizes[:index]) for index in range(len(sizes))]
    groups = [number[at : at + size] for at, size in zip(places, sizes, strict=True) if number[at : at + size]]
    written = rng.choice(
        (
            *[number, " ".join(groups), "-".join(groups)] * 3,
            ".".join(groups),
            "  ".join(groups),
            "%20".join(groups),
            "\u2009".join(groups),
            " ".join(number),
            _fullwidth(number),
            "\u200b".join(groups),
        )
    )
    sentence = rng.choice(
        (
            "My card is {}.",
            "charged {} twice",
            "{} exp 12/27 cvc 123",
            "card={};",
            "VISA {}",
            "Karte {} gesperrt",
            '{{"pan":"{}"}}',
        )
    )
    return sentence, written, number


_BBANS = {
    "DE": "18n",
    "NL": "4a10n",
    "GB": "4a14n",
    "ES": "20n",
    "CH": "5n12c",
    "BE": "12n",
    "PL": "24n",
    "IT": "1a10n12c",
    "DK": "14n",
    "NO": "11n",
    "FR": "10n11c2n",
}


def _iban(rng: random.Random) -> tuple[str, str, str]:
    country = rng.choice(list(_BBANS))
    bban, count = "", ""
    letters = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    for sign in _BBANS[country]:
        if sign.isdigit():
            count += sign
        else:
            bban += _word(rng, int(count), letters[sign])
            count = ""
    number = country + iban.calc_check_digits(f"{country}00{bban}") + bban
    groups = [number[at : at + 4] for at in range(0, len(number), 4)]
    written = rng.choice(
        (*[number, " ".join(groups)] * 3, "-".join(groups), number.lower(), "\u00a0".join(groups), "%20".join(groups))
    )
    sentence = rng.choice(
        ("IBAN {}", "Please refund to {} soon", "Konto: {}.", "iban={}", "({})", "transfer to {} and tell me")
    )
    return sentence, written, number


def _ip(rng: random.Random) -> tuple[str, str, str]:
    four = str(IPv4Address(rng.randint(1 << 24, (224 << 24) - 1)))
    six = IPv6Address((0x2001 << 112) | rng.getrandbits(rng.choice((40, 112))))
    bare, written = rng.choice(
        (
            *[(four, four)] * 4,
            (four, four.replace(".", "[.]")),
            (four, _fullwidth(four)),
            (four, "ip-" + four.replace(".", "-")),
            *[(str(six), str(six))] * 3,
            (str(six), six.exploded),
            (str(six), str(six).upper()),
        )
    )
    sentence = rng.choice(
        ("My router has {}.", "ping {} fails", "from {} at night", "host={};", "({})", "blocked: {}, why?")
    )
    if ":" not in written and "-" not in written:
        sentence = rng.choice((sentence, "http://{}/admin", "{}:8080 refuses", "{}/24"))
    return sentence, written, bare


def _secret(rng: random.Random) -> tuple[str, str, str]:
    made = rng.choice(
        (
            "sk-" + _word(rng, 48),
            "sk-proj-" + _word(rng, 60),
            "sk-ant-api03-" + _word(rng, 80),
            "sk-ostler-" + _word(rng, 43),
            "ghp_" + _word(rng, 36),
            "github_pat_" + _word(rng, 22) + "_" + _word(rng, 59),
            "AKIA" + _word(rng, 16, string.ascii_uppercase + string.digits),
            "xoxb-" + _digits(rng, 12) + "-" + _word(rng, 24),
            "AIza" + _word(rng, 35),
            "hf_" + _word(rng, 34),
            "glpat-" + _word(rng, 20),
            "sk_live_" + _word(rng, 24),
            "npm_" + _word(rng, 36),
            "SG." + _word(rng, 22) + "." + _word(rng, 43),
            f"eyJ{_word(rng, 30)}.eyJ{_word(rng, 60)}.{_word(rng, 43)}",
        )
    )
    sentence = rng.choice(
        ("my key {} does not work", "OPENAI_API_KEY={}", "token: {}", '"{}"', "curl -H 'X-Key: {}'", "key is {}.")
    )
    other = rng.choice(("", "", "", "password", "bearer", "pem", "url", "aws"))
    password = _word(rng, 12) + _digits(rng, 2) + "x"
    match other:
        case "password":
            return (
                rng.choice(("password: {}", "my password is {}", '{{"password": "{}"}}', "pwd={}")),
                password,
                password,
            )
        case "bearer":
            return "Authorization: Bearer {}", password * 2, password * 2
        case "pem":
            key = "\n".join(_word(rng, 64) for _ in range(4))
            name = rng.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY"))
            return f"-----BEGIN {name}-----\n{{}}\n-----END {name}-----", key, key
        case "url":
            return "postgres://bob:{}@db.internal/shop", password, password
        case "aws":
            long = _word(rng, 38) + "9z"
            return "aws_secret_access_key = {}", long, long
    return sentence, made, made


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(2019, 2027), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{month}/{day}/{year}",
            f"{year}-{month:02}-{day:02}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00Z",
            f"{day}/{month}/{year % 100:02}",
        )
    )


def _version(rng: random.Random) -> str:
    return ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice((2, 3, 3))))


def _order(rng: random.Random) -> str:
    return rng.choice((f"#{_digits(rng, 7)}", f"ORD-2026-{_digits(rng, 6)}", f"A{_digits(rng, 8)}", _digits(rng, 8)))


def _price(rng: random.Random) -> str:
    value = rng.randint(1, 2_000_000) / 100
    return rng.choice((f"${value:,.2f}", f"{value:.2f} EUR", f"{value:,.0f} USD", f"£{value:.2f}"))


def _uuid(rng: random.Random) -> str:
    made = _word(rng, 32, "0123456789abcdef")
    return "-".join((made[:8], made[8:12], made[12:16], made[16:20], made[20:]))


def _tracking(rng: random.Random) -> str:
    return rng.choice(
        (
            "1Z" + _word(rng, 16, string.ascii_uppercase + string.digits),
            "94" + _digits(rng, 20),
            "JD" + _digits(rng, 18),
            "RR" + _digits(rng, 9) + "DE",
            _digits(rng, 12),
        )
    )


def _code(rng: random.Random) -> str:
    return rng.choice(
        (
            "std::vector<int> a; a::b(); x[::2]; y[1::3]",
            f"react@{_version(rng)} and support@{rng.randint(1, 40)}-{_word(rng, 8, '0123456789abcdef')}",
            "@Override public int hashCode() {{ return 31; }}".replace("{{", "{").replace("}}", "}"),
            f"commit {_word(rng, 40, '0123456789abcdef')}",
            "SELECT a, b FROM t WHERE id IN (10001, 10002, 10003)",
            f"mac {':'.join(_word(rng, 2, '0123456789abcdef') for _ in range(6))} at {rng.randint(0, 23)}:17:07",
            "for i in range(1000000): total += i % 97",
        )
    )


_MAKERS: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "ip": _ip,
    "secret": _secret,
}
_LOOKALIKES: dict[str, Callable[[random.Random], str]] = {
    "order number": lambda rng: f"It is about order {_order(rng)}.",
    "10-digit number": lambda rng: f"Customer number {_digits(rng, 10)}.",
    "date": lambda rng: f"It was on {_date(rng)} and again on {_date(rng)}.",
    "price": lambda rng: f"I paid {_price(rng)} and {_price(rng)}.",
    "version": lambda rng: f"It runs version {_version(rng)}, before that v{_version(rng)}.{rng.randint(0, 20)}.",
    "4-part number": lambda rng: f"Driver {'.'.join(str(rng.randint(0, 40)) for _ in range(4))} is installed.",
    "uuid": lambda rng: f"Trace {_uuid(rng)}.",
    "tracking number": lambda rng: f"Tracking {_tracking(rng)} shows nothing.",
    "isbn": lambda rng: (
        f"The book has ISBN 978-{rng.randint(0, 9)}-{_digits(rng, 4)}-{_digits(rng, 4)}-{_digits(rng, 1)}."
    ),
    "code": _code,
    "words": lambda rng: "The password is wrong, the token expired, and my key does not open the door at 5 pm.",
}
