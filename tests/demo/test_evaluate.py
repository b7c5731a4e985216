"""Scoring a model over HTTP, against a small server of our own."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from demo.evaluate import ask, field_accuracy
from demo.tickets import held_out

TICKETS = held_out(12, 5)
ANSWERS = {ticket.message: ticket.answer for ticket in TICKETS}


class Server(ThreadingHTTPServer):
    """Answers right as `good`, with a wrong urgency as `poor`, and knows no other model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.in_flight = 0
        self.most_in_flight = 0
        self.keys: set[str | None] = set()
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
            self.server.keys.add(self.headers["authorization"])
            self.server.bodies.append(body)
        time.sleep(0.02)
        with self.server.lock:
            self.server.in_flight -= 1
        self._reply(body)

    def _reply(self, body: dict[str, Any]) -> None:
        answer = ANSWERS[body["messages"][-1]["content"]]
        if body["model"] == "poor":
            answer = json.dumps(json.loads(answer) | {"urgency": "never"})
        known = body["model"] in ("good", "poor")
        content = {"choices": [{"message": {"content": answer}}]} if known else {"error": {"message": "no such model"}}
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_right_answers_score_one(server: Server) -> None:
    """Each right answer counts fully, and answers come back in the order of the tickets."""
    scores = field_accuracy(server.url, "good", TICKETS)
    assert (scores.fields, scores.exact, scores.valid) == (1, 1, 1)
    assert scores.answers == tuple(ticket.answer for ticket in TICKETS)


def test_a_wrong_field_costs_a_third(server: Server) -> None:
    """Means are taken over tickets, and each field has a mean of its own."""
    scores = field_accuracy(server.url, "poor", TICKETS)
    assert scores.fields == pytest.approx(2 / 3)
    assert (scores.exact, scores.valid) == (0, 1)
    assert scores.by_field == {"intent": 1, "product": 1, "urgency": 0}


def test_requests_in_flight_are_limited(server: Server) -> None:
    """Never more at once than asked for, and each answer is announced."""
    ticks: list[None] = []
    field_accuracy(server.url, "good", TICKETS, at_once=3, on_answer=lambda: ticks.append(None))
    assert 1 < server.most_in_flight <= 3
    assert len(ticks) == len(TICKETS)


def test_a_request_is_one_user_message_at_temperature_zero(server: Server) -> None:
    """The key goes along as a bearer token, and nothing but the message is asked."""
    ask(server.url, "good", TICKETS[0].message, api_key="secret")
    assert server.keys == {"Bearer secret"}
    assert server.bodies[0]["messages"] == [{"role": "user", "content": TICKETS[0].message}]
    assert server.bodies[0]["temperature"] == 0


def test_without_a_key_none_is_sent(server: Server) -> None:
    """No key, no header."""
    ask(server.url, "good", TICKETS[0].message)
    assert server.keys == {None}


def test_a_refusal_is_an_error_with_the_servers_words(server: Server) -> None:
    """An unknown model is reported, not scored as a wrong answer."""
    with pytest.raises(RuntimeError, match=r"HTTP 404.*no such model"):
        field_accuracy(server.url, "unknown", TICKETS)


def test_no_tickets_is_an_error() -> None:
    """Nothing asked is no score."""
    with pytest.raises(ValueError, match="no tickets"):
        field_accuracy("http://127.0.0.1:9", "good", [])
