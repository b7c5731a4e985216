"""Events are passed on whole: however the stream is cut, a client never has the half of one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.events import ENDS, WholeEvents

each_end = pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF"])


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"data: x", b"\n\n", b"\r\n\r\n", b"\r", b"", b"event: y"])))
@example([b"data: x\r\n", b"\r", b"\n", b"data: y\n", b"\n"])
@example([b"data: x\r\n\r", b"\ndata: y"])
def test_what_is_out_ends_with_the_last_whole_event(chunks: list[bytes]) -> None:
    """At each moment; nothing is lost, and what is left at the end holds no whole event."""
    events, came, out = WholeEvents(), b"", b""
    for chunk in chunks:
        came += chunk
        out += events.feed(chunk)
        assert came.startswith(out)
        assert not out or out.endswith(ENDS)
        assert not any(end in came[len(out) :] for end in ENDS)
    assert out + events.rest() == came
    assert events.rest() == b""


@each_end
def test_a_chunk_of_whole_events_goes_on_as_it_came(end: bytes) -> None:
    """Nearly all are such, and they cost no copy."""
    events, chunk = WholeEvents(), b"data: a" + end + b"data: b" + end
    assert events.feed(chunk) is chunk
    assert events.feed(b"data: c" + end + b"data: ") == b"data: c" + end
    assert events.feed(b"d" + end) == b"data: d" + end
    assert events.feed(chunk) is chunk
