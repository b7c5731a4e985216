"""Signatures: those of the Standard Webhooks specification, so that any of its libraries verifies them."""

import base64
from datetime import UTC, datetime

from monitors.webhooks.signing import new_secret, signed_headers
from tests.fakes.receiver import Got

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'


def got(headers: dict[str, str], content: bytes) -> Got:
    """A message as a receiver sees it."""
    signatures = tuple(headers["webhook-signature"].split(" "))
    return Got(headers["webhook-id"], int(headers["webhook-timestamp"]), signatures, content, {})


def test_the_reference_vector_comes_out() -> None:
    """The one that the specification's own libraries are tested with."""
    assert signed_headers(ID, AT, BODY, [SECRET]) == {
        "webhook-id": ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_nothing_else_has_the_signature() -> None:
    """Not another body, id or moment, and not another secret."""
    headers = signed_headers(ID, AT, BODY, [SECRET])
    assert got(headers, BODY).is_signed_by(SECRET)
    assert not got(headers, BODY + b" ").is_signed_by(SECRET)
    assert not got(headers | {"webhook-id": "msg_2"}, BODY).is_signed_by(SECRET)
    assert not got(headers | {"webhook-timestamp": "1614265331"}, BODY).is_signed_by(SECRET)
    assert not got(headers, BODY).is_signed_by(new_secret())


def test_each_secret_signs_while_two_count() -> None:
    """So a receiver that knows either of them takes the message."""
    old, new = new_secret(), new_secret()
    message = got(signed_headers(ID, AT, BODY, [new, old]), BODY)
    assert len(message.signatures) == 2
    assert message.is_signed_by(old)
    assert message.is_signed_by(new)


def test_secrets_are_what_libraries_take() -> None:
    """`whsec_` and at least 24 bytes in base64, each another one."""
    first, second = new_secret(), new_secret()
    assert first != second
    assert first.startswith("whsec_")
    assert 24 <= len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) <= 64
