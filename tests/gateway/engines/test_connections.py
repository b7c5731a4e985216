"""The client of one engine: how requests go out and answers come, and which connections are kept."""

import asyncio
import base64
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.engines import connections
from tests.conftest import until
from tests.fakes.scripted import Line, answering, scripted
from tests.gateway.engines.forwarding import (
    CHUNKED,
    HELLO,
    LARGE,
    OK,
    SOON_S,
    STREAM,
    ask,
    before,
    client,
    down,
    pieces,
    post,
)
from tests.loops import on_both_loops


@on_both_loops
async def test_a_request_goes_out_as_it_was_given() -> None:
    """With the host and the body's length, and whatever bytes the body holds."""
    async with before(answering(HELLO)) as (engine, server):
        assert await ask(engine, b"\x00\r\n\r\n{}") == (200, "application/json", b"hello")
        host = server.url.removeprefix("http://").encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 7\r\n"
        assert server.heads == [head + b"content-type: application/json\r\nx-request-id: req-1\r\n\r\n"]
        assert server.bodies == [b"\x00\r\n\r\n{}"]


@on_both_loops
async def test_an_address_may_hold_a_path_and_a_password() -> None:
    """As one behind a proxy does."""
    async with before(answering(HELLO)) as (_, server):
        with client(server.url.replace("//", "//me:p%40ss@") + "/engines/1/") as engine:
            assert (await ask(engine))[2] == b"hello"
        assert server.heads[0].startswith(b"POST /engines/1/v1/chat/completions HTTP/1.1\r\nhost: 127.")
        assert b"\r\nauthorization: Basic " + base64.b64encode(b"me:p@ss") + b"\r\n" in server.heads[0]


@on_both_loops
@pytest.mark.parametrize("answer", [HELLO, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_may_come_in_any_pieces(answer: bytes, as_stream: bool) -> None:
    """Cut in two anywhere, or byte by byte; what stands behind the body or before the answer changes nothing."""
    cuts = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    cuts.append([answer[at : at + 1] for at in range(len(answer))])

    async def script(line: Line) -> None:
        for cut in cuts:
            await line.request()
            await line.say(*cut)

    async with before(script) as (engine, server):
        kind = "application/json" if answer is HELLO else "text/event-stream; charset=utf-8"
        for _ in cuts:
            with await post(engine) as reply:
                body = b"".join(await pieces(reply)) if as_stream else await reply.read()
            assert (reply.status, reply.content_type, body) == (200, kind, b"hello")
        assert server.connections == 1


@on_both_loops
@pytest.mark.parametrize("status", [204, 304])
async def test_some_answers_have_no_body(status: int) -> None:
    """Whatever their headers say of one; and no content type either, if they name none."""
    async with before(answering(b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status)) as (engine, server):
        for _ in range(3):
            assert await ask(engine) == (status, "", b"")
        assert server.connections == 1


@on_both_loops
@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n",
        OK + b"connection: close\r\n",
        b"HTTP/1.1 103 Early Hints\r\ncontent-type: x\r\ncontent-length: 0\r\n\r\n" + OK,
    ],
)
async def test_a_body_without_a_length_ends_with_the_connection(head: bytes) -> None:
    """The next request has another one; what was said before the answer is no part of it."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(head + b"\r\nhel", b"lo")
        line.end()

    async with before(script) as (engine, server):
        assert await ask(engine) == (200, "", b"hello")
        with await post(engine) as reply:
            assert b"".join(await pieces(reply)) == b"hello"
        assert server.connections == 2


@on_both_loops
@pytest.mark.parametrize(
    ("head", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", 3),
        (b"HTTP/1.0 200 OK\r\n", 3),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", 1),
    ],
)
async def test_a_connection_is_kept_if_the_engine_keeps_it(head: bytes, connections: int) -> None:
    """By its version of HTTP and by what it says."""
    async with before(answering(head + b"content-length: 5\r\n\r\nhello")) as (engine, server):
        for _ in range(3):
            assert (await ask(engine))[2] == b"hello"
        assert server.connections == connections
        await until(lambda: server.gone == (connections if connections > 1 else 0))


@on_both_loops
async def test_bodies_may_be_large_both_ways() -> None:
    """And come as they were sent."""
    sent, answered = b"0123456789abcdef" * (LARGE >> 4), b"fedcba9876543210" * (LARGE >> 4)
    head = OK + b"content-length: %d\r\n\r\n" % LARGE
    async with before(answering(head + answered)) as (engine, server):
        assert (await ask(engine, sent))[2] == answered
        with await post(engine) as reply:
            assert b"".join(await pieces(reply)) == answered
        assert server.bodies == [sent, b"{}"]
        assert server.connections == 1


@on_both_loops
async def test_an_answer_is_read_again_as_it_was() -> None:
    """Also after its connection was given back, and serves another request."""
    async with before(answering(HELLO)) as (engine, server):
        with await post(engine) as reply:
            assert await reply.read() == b"hello"
            assert await reply.read() == b"hello"
        await ask(engine)
        assert await reply.read() == b"hello"
        assert server.connections == 1


@on_both_loops
async def test_an_answer_that_has_come_is_read_without_a_wait() -> None:
    """It costs no turn of the loop."""
    async with before(answering(HELLO)) as (engine, _):
        with await post(engine) as reply, pytest.raises(StopIteration) as ended:
            reply.read().send(None)
        assert ended.value.value == b"hello"


@on_both_loops
async def test_what_was_read_whole_is_not_an_empty_stream() -> None:
    """To who asks for its next bytes afterwards; to who reads it again it is the same."""
    async with before(answering(HELLO)) as (engine, _):
        with await post(engine) as reply:
            assert await reply.read() == b"hello"
            with pytest.raises(RuntimeError, match="read whole"):
                await reply.next()
            assert await reply.read() == b"hello"


@on_both_loops
async def test_the_connection_that_was_used_last_is_used_next() -> None:
    """As many are open as there were requests at once, and those too many grow old."""
    gate = asyncio.Event()

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await gate.wait()
            await line.say(OK + b"content-length: 1\r\n\r\n%d" % server.lines.index(line))

    async with before(script) as (engine, server):
        asked = [asyncio.ensure_future(ask(engine)) for _ in range(3)]
        await until(lambda: len(server.bodies) == 3)
        gate.set()
        assert {(await each)[2] for each in asked} == {b"0", b"1", b"2"}
        assert len({(await ask(engine))[2] for _ in range(5)}) == 1
        assert server.connections == 3


@on_both_loops
async def test_an_idle_connection_is_closed_before_the_engine_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not used after that, and does not stay until somebody asks again."""
    monkeypatch.setattr(connections, "KEEPALIVE_S", 4 * SOON_S)
    async with before(answering(HELLO)) as (engine, server):
        await ask(engine)
        await asyncio.sleep(SOON_S)
        await ask(engine)
        assert (server.connections, server.gone) == (1, 0)
        await until(lambda: server.gone == 1)
        await ask(engine)
        assert server.connections == 2


@on_both_loops
async def test_a_connection_grows_old_from_its_answers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine counts from there, however long the gateway still holds the answer."""
    monkeypatch.setattr(connections, "KEEPALIVE_S", SOON_S)
    async with before(answering(HELLO)) as (engine, server):
        with await post(engine) as reply:
            await reply.read()
            await asyncio.sleep(1.5 * SOON_S)
        await ask(engine)
        assert server.connections == 2


@on_both_loops
async def test_a_whole_answer_that_nobody_read_gives_its_connection_back() -> None:
    """And leaves nothing of itself in it."""
    async with before(answering(HELLO)) as (engine, server):
        (await post(engine)).close()
        assert (await ask(engine))[2] == b"hello"
        assert server.connections == 1


@on_both_loops
@pytest.mark.parametrize("head", [STREAM, OK + b"content-length: %d\r\n\r\n" % LARGE, OK + b"\r\n"])
async def test_who_takes_nothing_slows_the_engine_down(head: bytes) -> None:
    """What is not taken is not read; when it is, all of it comes."""
    piece, end = bytes(65536), b""
    if head is STREAM:
        piece, end = b"10000\r\n" + piece + b"\r\n", b"0\r\n\r\n"
    said = 0

    async def script(line: Line) -> None:
        nonlocal said
        await line.request()
        await line.say(head)
        for _ in range(LARGE >> 16):
            await line.say(piece)
            said += 1
        await line.say(end)
        line.end()

    async def stalls() -> bool:
        before = said
        await asyncio.sleep(SOON_S)
        return said == before > 0

    async with before(script) as (engine, _):
        with await post(engine) as reply:
            await until(stalls)
            assert said < LARGE >> 17
            first = await reply.next()
            assert len(first) < 1 << 20
            await until(stalls)
            assert said < LARGE >> 17
            assert len(first + await reply.read()) == LARGE


@on_both_loops
async def test_a_header_keeps_its_bytes() -> None:
    """Those of a client's header in another encoding, too."""
    async with before(answering(HELLO)) as (engine, server):
        with await engine.post("/", b"", {"tracestate": "caf\xc3\xa9\t="}, 5.0):
            assert b"\r\ntracestate: caf\xc3\xa9\t=\r\n" in server.heads[0]


@on_both_loops
async def test_to_close_leaves_no_connection() -> None:
    """Idle ones go at once, the others with the end of their answers, which still come."""
    gate = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HELLO)
        await line.request()
        await gate.wait()
        await line.say(HELLO)

    async with before(script) as (engine, server):
        first, second = await post(engine), await post(engine)
        first.close()
        second.close()
        asked = asyncio.ensure_future(ask(engine))
        await until(lambda: len(server.bodies) == 3)
        engine.close()
        await until(lambda: server.gone == 1)
        gate.set()
        assert (await asked)[2] == b"hello"
        await until(lambda: server.gone == 2)


@on_both_loops
async def test_certificates_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that nobody vouches for is refused before anything is sent; else all is as without TLS."""

    async def ending(line: Line) -> None:
        await line.request()
        await line.say(OK + b"\r\nhello")
        line.end()

    certificate, key = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    try:
        async with scripted(answering(CHUNKED), tls) as server:
            connections._tls.cache_clear()
            with client(server.url) as engine, down(sent=False):
                await ask(engine)
            assert server.heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        connections._tls.cache_clear()
        async with scripted(answering(CHUNKED), tls) as server:
            with client(server.url) as engine:
                for body in (b"{}", bytes(LARGE)):
                    assert (await ask(engine, body))[2] == b"hello"
            assert server.bodies == [b"{}", bytes(LARGE)]
            assert server.connections == 1
        async with scripted(ending, tls) as server:
            with client(server.url) as engine:
                assert (await ask(engine))[2] == b"hello"
    finally:
        connections._tls.cache_clear()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine's loopback address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engine")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, private
