"""Files on their way in: forms of all kinds, in odd pieces, too large, broken off, or onto a full disk."""

import asyncio
import json
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.settings import GatewaySettings
from gateway.tuning.files import disposition
from gateway.tuning.upload import clean_name
from tests.conftest import RunningGateway, until
from tests.gateway.answers import error_of
from tests.gateway.tuning.forms import ANCHOR, END, FILE, FORM, LIMIT, PURPOSE, ROWS, SECONDS, left, part, send


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings) -> GatewaySettings:
    """A gateway that takes files of 1 MiB."""
    return gateway_settings.model_copy(update={"max_file_bytes": LIMIT})


def expiring(anchor: bytes | None = b"created_at", seconds: bytes | None = b"3600") -> bytes:
    """A whole form with an expiry."""
    parts = [part(name, value) for name, value in ((ANCHOR, anchor), (SECONDS, seconds)) if value is not None]
    return b"".join([*parts, PURPOSE, FILE, END])


BAD_FORMS: dict[str, tuple[dict[str, str], bytes, str | None]] = {
    "no content type": ({}, PURPOSE + FILE + END, "content-type"),
    "JSON": ({"content-type": "application/json"}, b'{"purpose": "fine-tune"}', "content-type"),
    "URL-encoded": ({"content-type": "application/x-www-form-urlencoded"}, b"purpose=fine-tune", "content-type"),
    "no boundary": ({"content-type": "multipart/form-data"}, PURPOSE + FILE + END, "content-type"),
    "empty boundary": ({"content-type": 'multipart/form-data; boundary=""'}, PURPOSE + FILE + END, "content-type"),
    "long boundary": ({"content-type": "multipart/form-data; boundary=" + "x" * 300}, b"", "content-type"),
    "wrong boundary": ({"content-type": "multipart/form-data; boundary=other"}, PURPOSE + FILE + END, None),
    "nothing": (FORM, b"", None),
    "no end": (FORM, PURPOSE + FILE, None),
    "an end alone": (FORM, END, "file"),
    "garbage before": (FORM, b"garbage" + PURPOSE + FILE + END, None),
    "no disposition": (FORM, b"--edge\r\nX-Odd: 1\r\n\r\nrows\r\n" + END, None),
    "a header without end": (FORM, b"--edge\r\nX-Odd: " + b"x" * 9000, None),
    "many headers": (FORM, part("file", b"rows", more="X-Odd: 1\r\n" * 20) + END, None),
    "no file": (FORM, PURPOSE + END, "file"),
    "no purpose": (FORM, FILE + END, "purpose"),
    "two files": (FORM, PURPOSE + FILE + FILE + END, "file"),
    "two purposes": (FORM, PURPOSE + PURPOSE + FILE + END, "purpose"),
    "an empty file": (FORM, PURPOSE + part("file", b"", filename="a.jsonl") + END, "file"),
    "an unknown field": (FORM, PURPOSE + part("model", b"x") + FILE + END, None),
    "a field without a name": (FORM, PURPOSE + part("", b"x") + FILE + END, None),
    "NUL in a field's name": (FORM, PURPOSE + part("file\0", b"x") + FILE + END, None),
    "another purpose": (FORM, part("purpose", b"assistants") + FILE + END, "purpose"),
    "no word as purpose": (FORM, part("purpose", b"\xff\0") + FILE + END, "purpose"),
    "a long purpose": (FORM, part("purpose", b"x" * 200_000) + FILE + END, "purpose"),
    "another anchor": (FORM, expiring(anchor=b"last_active_at"), ANCHOR),
    "no anchor": (FORM, expiring(anchor=None), "expires_after"),
    "no seconds": (FORM, expiring(seconds=None), "expires_after"),
    "too few seconds": (FORM, expiring(seconds=b"3599"), SECONDS),
    "too many seconds": (FORM, expiring(seconds=b"2592001"), SECONDS),
    "odd seconds": (FORM, expiring(seconds="\uff13600".encode()), SECONDS),
    "negative seconds": (FORM, expiring(seconds=b"-3600"), SECONDS),
}


async def test_a_bad_form_is_refused_and_leaves_nothing(gateway: RunningGateway) -> None:
    """400 that says what is wrong where, which the SDK does not send again."""
    for name, (headers, body, param) in BAD_FORMS.items():
        response = await gateway.http.post("/v1/files", content=body, headers=headers)
        error = error_of(response)
        found = (response.status_code, error["code"], error["param"])
        assert found == (400, "invalid_request", param), (name, response.text)
        assert response.headers["x-should-retry"] == "false"
        assert left(gateway) == [], name
    assert (await gateway.http.get("/v1/files")).json()["data"] == []


NAMES = st.sampled_from(["file", "purpose", ANCHOR, SECONDS, "file\0"]) | st.text(max_size=5)
VALUES = st.sampled_from([b"fine-tune", b"evals", b"created_at", b"3600", b"", b"--edge", b"\r\n--edge"]) | st.binary(
    max_size=60
)
FILENAMES = st.none() | st.sampled_from(["a.jsonl", "", "../a", 'a\\"']) | st.text(max_size=10)
ODD_PARTS = st.lists(
    st.builds(lambda name, value, named: part(name, value, filename=named), NAMES, VALUES, FILENAMES), max_size=2
)
FORMS = st.builds(
    lambda parts, odd, end, cut: (b"".join([*parts, *odd]) + end)[: -cut or None],
    st.permutations([FILE, PURPOSE]) | st.just([FILE]),
    st.just([]) | ODD_PARTS,
    st.sampled_from([END, b"--edge--", b"--edge", b""]) | st.binary(max_size=20),
    st.sampled_from([0, 0, 0, 1, 5, 40]),
)


async def test_no_form_makes_the_gateway_fail(gateway: RunningGateway) -> None:
    """Whatever parts in whatever order, whole or cut: it is kept, or refused as the client's mistake."""
    seen: Counter[int] = Counter()

    def run() -> None:
        headers = FORM | {"authorization": f"Bearer {gateway.key}"}
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=20) as client:

            @settings(max_examples=200, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(form=FORMS)
            def post(form: bytes) -> None:
                response = client.post("/v1/files", content=form)
                seen[response.status_code] += 1
                assert response.status_code in (200, 400), response.text

            post()

    await asyncio.to_thread(run)
    assert seen[200] > 5, seen
    assert seen[400] > 20, seen
    assert len((await gateway.http.get("/v1/files")).json()["data"]) == seen[200]


@pytest.mark.parametrize("purpose_first", [True, False])
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
async def test_a_form_may_come_in_any_order_and_in_any_pieces(
    gateway: RunningGateway, purpose_first: bool, size: int
) -> None:
    """The content is kept byte for byte, also where it looks like the boundary."""
    rows = ROWS.replace(b"\r\n--edge\r\n", b"\r\n--edgy\r\n")
    parts = [part("purpose", b"evals"), part("file", rows, filename="b.jsonl"), part(SECONDS, b"3600")]
    form = b"".join([*(parts if purpose_first else parts[::-1]), part(ANCHOR, b"created_at"), END])

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), size):
            yield form[start : start + size]

    response = await gateway.http.post("/v1/files", content=pieces(), headers=FORM)
    assert response.status_code == 200, response.text
    file = response.json()
    assert (file["filename"], file["purpose"], file["bytes"]) == ("b.jsonl", "evals", len(rows))
    assert file["expires_at"] - file["created_at"] in (3599, 3600)
    assert (await gateway.http.get(f"/v1/files/{file['id']}/content")).content == rows


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_file_over_the_limit_is_refused(gateway: RunningGateway, chunked: bool) -> None:
    """413, told as an answer and not as a broken connection, whether the size was announced or not; the limit fits."""

    async def pieces(form: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(form), 1 << 16):
            yield form[start : start + (1 << 16)]

    for size in (LIMIT + 1, 9 << 20):
        form = PURPOSE + part("file", bytes(size), filename="a") + END
        content = pieces(form) if chunked else form
        response = await gateway.http.post("/v1/files", content=content, headers=FORM)
        assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
        assert str(LIMIT) in error_of(response)["message"]
        assert left(gateway) == []
    assert (await send(gateway, bytes(LIMIT))).status_code == 200


async def test_what_follows_a_form_is_limited_too(gateway: RunningGateway) -> None:
    """An end without end is no way around the limit."""

    async def endless() -> AsyncIterator[bytes]:
        yield PURPOSE + FILE + END
        for _ in range(40):
            yield bytes(1 << 16)

    response = await gateway.http.post("/v1/files", content=endless(), headers=FORM)
    assert response.status_code == 413
    assert left(gateway) == []


async def half_an_upload(gateway: RunningGateway, *, chunked: bool) -> asyncio.StreamWriter:
    """A connection on which a part of a file was sent, and has come."""
    half = PURPOSE + part("file", b"rows\n" * 1000, filename="a.jsonl")
    length = "transfer-encoding: chunked" if chunked else f"content-length: {2 * len(half)}"
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n{length}\r\n"
    body = b"%x\r\n%s\r\n" % (len(half), half) if chunked else half
    where = urlsplit(gateway.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(head.encode() + b"content-type: multipart/form-data; boundary=edge\r\n\r\n" + body)
    await writer.drain()
    await until(lambda: left(gateway))
    return writer


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_that_breaks_off_leaves_nothing(gateway: RunningGateway, chunked: bool) -> None:
    """Half a file and a closed connection."""
    writer = await half_an_upload(gateway, chunked=chunked)
    writer.close()
    await until(lambda: left(gateway) == [])
    assert (await gateway.http.get("/v1/files")).json()["data"] == []


class TestSilence:
    """A client that is there no more, although nothing says so."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings) -> GatewaySettings:
        """A gateway without patience."""
        return gateway_settings.model_copy(update={"body_timeout_s": 1.0})

    async def test_a_client_that_falls_silent_is_given_up(self, gateway: RunningGateway) -> None:
        """Its half of a file is not kept for ever; the one that comes slowly but steadily is heard out."""
        writer = await half_an_upload(gateway, chunked=False)
        await until(lambda: left(gateway) == [])
        writer.close()

        async def slowly() -> AsyncIterator[bytes]:
            form = PURPOSE + FILE + END
            for start in range(0, len(form), 10):
                await asyncio.sleep(0.05)
                yield form[start : start + 10]

        assert (await gateway.http.post("/v1/files", content=slowly(), headers=FORM)).status_code == 200
        already = left(gateway)

        async def never() -> AsyncIterator[bytes]:
            yield PURPOSE
            await until(lambda: left(gateway) != already)
            await until(lambda: left(gateway) == already)
            yield FILE

        response = await gateway.http.post("/v1/files", content=never(), headers=FORM)
        assert (response.status_code, error_of(response)["code"]) == (408, "request_timeout")
        assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("where", ["gateway.tuning.upload.PushMultipartParser", "registry.artifacts.shutil.copyfile"])
async def test_a_full_disk_says_so(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """503 with the reason and no path, whether it is full while the file comes or while it is stored."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(gateway.app.state.settings.cache))

    with monkeypatch.context() as broken:
        broken.setattr(where, full)
        response = await send(gateway)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (503, "artifact_store_unavailable")
    assert "No space left on device" in error["message"]
    assert str(gateway.app.state.settings.cache) not in response.text
    assert left(gateway) == []
    assert (await gateway.http.get("/v1/files")).json()["data"] == []
    assert (await send(gateway)).status_code == 200


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("tickets.jsonl", "tickets.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\tickets.jsonl", "tickets.jsonl"),
        ("a\r\nset-cookie: x.jsonl", "aset-cookie: x.jsonl"),
        ("a\0b\x1b[31m\u202ecod.exe", "ab[31mcod.exe"),
        ("Ümläut 日本.jsonl", "Ümläut 日本.jsonl"),
        ('quote".jsonl', 'quote".jsonl'),
        ("..", "upload"),
        ("folder/", "upload"),
        ("", "upload"),
        ("\0", "upload"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_files_name_is_cleaned(name: str, kept: str) -> None:
    """To its last part, of letters that can be shown; as a header it names no path and begins no other header."""
    assert clean_name(name) == kept
    header = disposition(kept)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert unquote(header.partition("filename*=UTF-8''")[2]) == kept


class TestLargeFiles:
    """Never the whole file in memory."""

    @pytest.fixture
    def gateway_settings(self, gateway_settings: GatewaySettings) -> GatewaySettings:
        """A gateway that takes files of 64 MiB."""
        return gateway_settings.model_copy(update={"max_file_bytes": 64 << 20})

    async def test_a_large_file_needs_no_memory_of_its_size(self, gateway: RunningGateway) -> None:
        """48 MiB go in and out within 8 MiB, of this process, which holds the client, too."""
        piece = json.dumps({"text": "x" * 1000}).encode() + b"\n"

        async def form() -> AsyncIterator[bytes]:
            yield PURPOSE + part("file", b"", filename="a.jsonl")[:-2]
            for _ in range((48 << 20) // (64 * len(piece))):
                yield piece * 64
            yield b"\r\n" + END

        tracemalloc.start()
        response = await gateway.http.post("/v1/files", content=form(), headers=FORM)
        assert response.status_code == 200, response.text
        size = 0
        async with gateway.http.stream("GET", f"/v1/files/{response.json()['id']}/content") as answer:
            async for got in answer.aiter_bytes():
                size += len(got)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == response.json()["bytes"] > 47 << 20
        assert peak < 8 << 20, peak
