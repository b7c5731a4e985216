"""What OpenAI's SDK makes of a gateway. Run as a process of its own, because a process holds one version of the SDK.

`python -m tests.engine.sdk_checks` says its SDK's version in one line of JSON, then reads a line per check from
standard input, `{"check", "url", "key", "engine_url"}`, and answers each with `{"error": null}` or the stack.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion

MESSAGES: Any = [{"role": "user", "content": "Hello, the camera has a dent and I want a replacement."}]
SENDS_WITH_RETRIES = 3


@dataclass(frozen=True)
class Target:
    """The gateway that a check is about, a key with all rights, and its engine where there is a real one."""

    url: str
    key: str
    engine_url: str = ""

    def client(self, **options: Any) -> openai.OpenAI:
        """A client of /v1."""
        given: dict[str, Any] = {"base_url": self.url + "/v1", "api_key": self.key, "timeout": 60.0}
        return openai.OpenAI(**given | options)

    def admin(self, **options: Any) -> openai.OpenAI:
        """A client of /admin/v1, which the SDK's own way of calling any path reaches."""
        return self.client(base_url=self.url + "/admin/v1", **options)


class Sent:
    """Counts the requests that leave a client, retries too, and how long it waits before each retry."""

    def __init__(self) -> None:
        self.count = 0
        self.waits: list[float] = []
        self.http_client = openai.DefaultHttpxClient(event_hooks={"request": [self._note]})

    def _note(self, _request: object) -> None:
        self.count += 1


@contextmanager
def refused(kind: type[openai.APIStatusError], status: int, code: str, sends: int = 1) -> Iterator[Any]:
    """The block must end in exactly this class, with the envelope's fields read, after that many requests.

    Gives options for the client, and holds the error afterwards.
    """
    sent = Sent()
    told: dict[str, Any] = {"options": {"http_client": sent.http_client, "max_retries": 2}}
    with mock.patch("time.sleep", sent.waits.append), pytest.raises(kind) as raised:
        yield told
    error = raised.value
    assert type(error) is kind, type(error)
    assert (error.status_code, error.code) == (status, code), str(error)
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code"} <= error.body.keys(), error.body
    assert error.request_id
    assert sent.count == sends, f"{sent.count} requests"
    told["error"], told["waits"] = error, sent.waits


def ask(client: openai.OpenAI, model: str = "support", **options: Any) -> ChatCompletion:
    """One short chat without chance."""
    settings: dict[str, Any] = {"temperature": 0.0, "seed": 7, "max_tokens": 40} | options
    answer: ChatCompletion = client.chat.completions.create(model=model, messages=MESSAGES, **settings)
    return answer


def text_of(answer: ChatCompletion) -> str:
    """The first choice's text."""
    content = answer.choices[0].message.content
    assert content
    return content


# Against the real engine


def chat(target: Target) -> None:
    """A chat is answered by a version of the adapter, and answer and headers say which."""
    raw = target.client().chat.completions.with_raw_response.create(
        model="support", messages=MESSAGES, temperature=0, max_tokens=40
    )
    answer = raw.parse()
    assert text_of(answer).startswith("{")
    assert answer.choices[0].finish_reason == "stop"
    assert raw.headers["x-ostler-adapter"] == "support"
    assert answer.model.startswith(f"support@{raw.headers['x-ostler-version']}-")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def pinned_versions_differ(target: Target) -> None:
    """`support@1`, `support@2` and the base model are three models, each named in its answer."""
    client = target.client()
    answers = [ask(client, model) for model in ("support@1", "support@2", "ostler-tiny")]
    assert [answer.model.partition("-")[0] for answer in answers] == ["support@1", "support@2", "ostler"]
    assert text_of(answers[0]) != text_of(answers[2])


def streaming(target: Target) -> None:
    """A stream's parts make the same text as a whole answer, from one version, and no part lacks choices."""
    client = target.client()
    whole = ask(client)
    stream = client.chat.completions.create(
        model="support", messages=MESSAGES, temperature=0, seed=7, max_tokens=40, stream=True
    )
    parts = list(stream)
    assert len(parts) > 3
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text_of(whole)
    assert {part.model for part in parts} == {whole.model}
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def stream_usage(target: Target) -> None:
    """With include_usage the last part has no choices and the whole answer's tokens; without it there is none."""
    client = target.client()
    whole = ask(client)
    common: Any = {"model": "support", "messages": MESSAGES, "temperature": 0, "seed": 7, "max_tokens": 40}
    told = list(client.chat.completions.create(**common, stream=True, stream_options={"include_usage": True}))
    untold = list(client.chat.completions.create(**common, stream=True, stream_options={"include_usage": False}))
    assert told[-1].choices == []
    assert told[-1].usage == whole.usage
    assert all(part.usage is None and part.choices for part in untold)
    # Not as many parts: an engine that is ahead of its reader puts several tokens into one.
    assert _text(untold) == _text(told[:-1]) == whole.choices[0].message.content


def _text(parts: Any) -> str:
    return "".join(part.choices[0].delta.content or "" for part in parts)


def several_choices(target: Target) -> None:
    """`n` gives that many choices, numbered."""
    answer = ask(target.client(), n=3, temperature=1.0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def stop_words(target: Target) -> None:
    """`stop` ends the text before the word."""
    client = target.client()
    answer = ask(client, stop=[","])
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(answer) == text_of(ask(client)).partition(",")[0]


def log_probabilities(target: Target) -> None:
    """`logprobs` and `top_logprobs` come for each token, and the most likely one was taken."""
    answer = ask(target.client(), logprobs=True, top_logprobs=3, max_tokens=6)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens = logprobs.content or []
    assert "".join(token.token for token in tokens) == text_of(answer)
    assert len(tokens) == 6
    for token in tokens:
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)


class Mood(pydantic.BaseModel):
    """A form that neither the base model nor the adapter was taught."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    mood: Literal["calm", "angry"]
    stars: Literal[1, 2, 3]


class Ticket(pydantic.BaseModel):
    """The form that the adapter was taught."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    intent: str
    product: str
    urgency: Literal["low", "medium", "high"]


def json_schema(target: Target) -> None:
    """`response_format` with a JSON schema makes every answer fit it, and the SDK's `parse` reads it."""
    client = target.client()
    form: Any = {"type": "json_schema", "json_schema": {"name": "mood", "schema": Mood.model_json_schema()}}
    for model in ("support", "ostler-tiny"):
        answer = ask(client, model, n=8, temperature=1.0, max_tokens=200, response_format=form)
        # JSON allows spaces without end, and so small a model may write them until its tokens are used up.
        whole = [choice.message.content for choice in answer.choices if choice.finish_reason == "stop"]
        assert whole
        for text in whole:
            Mood.model_validate_json(text or "")
    parsed = client.chat.completions.parse(
        model="support", messages=MESSAGES, response_format=Ticket, max_tokens=100, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Ticket)


def models(target: Target) -> None:
    """The list has the deployment, its versions and the base; each can be retrieved, another cannot."""
    client = target.client()
    listed = {model.id: model for model in client.models.list()}
    assert {"support", "support@1", "support@2", "ostler-tiny"} <= listed.keys()
    for name, model in listed.items():
        assert client.models.retrieve(name) == model
    with refused(openai.NotFoundError, 404, "model_not_found") as told:
        target.client(**told["options"]).models.retrieve("nobody")


def completions(target: Target) -> None:
    """The older endpoint is served by the same version."""
    client = target.client()
    answer = client.completions.create(model="support", prompt="Hello", max_tokens=5, temperature=0)
    assert answer.model == ask(client).model
    assert answer.choices[0].text


def responses(target: Target) -> None:
    """The Responses API answers, whole and as a stream of events that ends with the response."""
    client = target.client()
    options: Any = {"model": "support", "input": MESSAGES, "max_output_tokens": 40, "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.model.startswith("support@")
    assert whole.output_text
    events = list(client.responses.create(**options, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text


def asynchronous(target: Target) -> None:
    """The async client gets answers, streams and errors, several at once."""

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=target.url + "/v1", api_key=target.key) as client:
            options: Any = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8}
            answers = await asyncio.gather(
                *(client.chat.completions.create(model=f"support@{number}", **options) for number in (1, 2))
            )
            assert [answer.model[:9] for answer in answers] == ["support@1", "support@2"]
            stream = await client.chat.completions.create(model="support@1", stream=True, **options)
            text = "".join([part.choices[0].delta.content or "" async for part in stream])
            assert text == text_of(answers[0])
            with pytest.raises(openai.NotFoundError, match=r"there is: .*support"):
                await client.chat.completions.create(model="nobody", **options)

    asyncio.run(run())


def same_as_the_engine(target: Target) -> None:
    """Through the gateway and straight to the engine, the same request has the same text and likelihoods."""
    through = ask(target.client(), logprobs=True)
    direct = ask(target.client(base_url=target.engine_url + "/v1"), through.model, logprobs=True)
    assert text_of(through) == text_of(direct)
    assert through.model == direct.model
    assert through.usage == direct.usage
    both = [answer.choices[0].logprobs for answer in (through, direct)]
    assert both[0] is not None
    assert both[1] is not None
    pairs = zip(both[0].content or (), both[1].content or (), strict=True)
    assert max(abs(one.logprob - other.logprob) for one, other in pairs) < 1e-3


def request_id(target: Target) -> None:
    """The client's x-request-id comes back and is part of the completion's id, so that both logs agree."""
    raw = target.client().chat.completions.with_raw_response.create(
        model="support", messages=MESSAGES, max_tokens=2, extra_headers={"x-request-id": "order-7.a"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "order-7.a"
    assert raw.parse().id == "chatcmpl-order-7.a"


def wrong_key(target: Target) -> None:
    """AuthenticationError, for chats and for lists."""
    with refused(openai.AuthenticationError, 401, "invalid_api_key") as told:
        ask(target.client(**told["options"], api_key="sk-wrong"))
    with refused(openai.AuthenticationError, 401, "invalid_api_key") as told:
        target.client(**told["options"], api_key="sk-wrong").models.list()


def unknown_model(target: Target) -> None:
    """NotFoundError whose message names what exists."""
    with refused(openai.NotFoundError, 404, "model_not_found") as told:
        ask(target.client(**told["options"]), "nobody")
    assert "'nobody'" in told["error"].message
    assert "support, ostler-tiny" in told["error"].message
    assert told["error"].param == "model"


def missing_fields(target: Target) -> None:
    """BadRequestError that names the field, whether the gateway or the engine misses it."""
    with refused(openai.BadRequestError, 400, "missing_field") as told:
        target.client(**told["options"]).post("/chat/completions", body={"messages": MESSAGES}, cast_to=object)
    assert told["error"].param == "model"
    with refused(openai.BadRequestError, 400, "invalid_request") as told:
        target.client(**told["options"]).post("/chat/completions", body={"model": "support"}, cast_to=object)
    assert told["error"].param == "messages"
    assert "messages" in told["error"].message


def wrong_types(target: Target) -> None:
    """BadRequestError that names the field, without what the engine's libraries say around it."""
    for field, value in (("messages", "hello"), ("temperature", "hot"), ("max_tokens", "many"), ("stop", 7)):
        body = {"model": "support", "messages": MESSAGES, field: value}
        with refused(openai.BadRequestError, 400, "invalid_request") as told:
            target.client(**told["options"]).post("/chat/completions", body=body, cast_to=object)
        assert told["error"].param == field, told["error"].body
        assert "validation error" not in told["error"].message
    for field, wrong in (("model", 7), ("stream", "yes")):
        body = {"model": "support", "messages": MESSAGES, field: wrong}
        with refused(openai.BadRequestError, 400, "invalid_type") as told:
            target.client(**told["options"]).post("/chat/completions", body=body, cast_to=object)
        assert told["error"].param == field


def out_of_range(target: Target) -> None:
    """BadRequestError that names the field for values that only the engine can judge."""
    wrong: list[tuple[str, Any]] = [("max_tokens", 100_000), ("temperature", -1.0), ("top_p", 3.0)]
    for field, value in wrong:
        with refused(openai.BadRequestError, 400, "invalid_request") as told:
            ask(target.client(**told["options"]), **{field: value})
        assert field in told["error"].message, told["error"].message


def malformed_json(target: Target) -> None:
    """BadRequestError that says where the JSON ends being JSON."""
    for content in (b'{"model": "support", "messages": [', b'{"model": "support",}', b"", b"\xff\xfe"):
        with refused(openai.BadRequestError, 400, "invalid_json") as told:
            _post_raw(target.client(**told["options"]), "/chat/completions", content)
        assert "not valid JSON" in told["error"].message


def too_large(target: Target) -> None:
    """A status error with 413, not a broken connection."""
    content = b'{"model": "support", "messages": "' + b"x" * (17 << 20) + b'"}'
    with refused(openai.APIStatusError, 413, "request_too_large") as told:
        _post_raw(target.client(**told["options"]), "/chat/completions", content)
    assert "limit" in told["error"].message


# Against a gateway before a fake engine, where `support` has versions 1, which is live, and 2, which cannot be loaded


def conflict(target: Target) -> None:
    """ConflictError, which the SDK would send again if it were not told that this is of no use."""
    with refused(openai.ConflictError, 409, "nothing_to_roll_back") as told:
        target.admin(**told["options"]).post("/adapters/support/rollback", cast_to=object)
    with refused(openai.ConflictError, 409, "version_not_servable") as told:
        target.admin(**told["options"]).patch("/adapters/support/deployment", body={"stable": 2}, cast_to=object)


def unprocessable(target: Target) -> None:
    """UnprocessableEntityError, whose body holds what exactly is wrong with an upload."""
    with refused(openai.UnprocessableEntityError, 422, "invalid_adapter") as told:
        _post_raw(target.admin(**told["options"]), "/adapters/support/versions", b"no archive")
    assert told["error"].body["reason"] == "archive_format"


def forbidden(target: Target) -> None:
    """PermissionDeniedError for a client's key on an admin's path."""
    made: Any = target.admin().post("/keys", body={"name": "team"}, cast_to=object)
    with refused(openai.PermissionDeniedError, 403, "insufficient_permissions") as told:
        target.admin(**told["options"], api_key=made["secret"]).get("/adapters", cast_to=object)


def version_unavailable(target: Target) -> None:
    """InternalServerError with 503 after two retries, each as late as retry-after says."""
    with refused(openai.InternalServerError, 503, "version_not_servable", SENDS_WITH_RETRIES) as told:
        ask(target.client(**told["options"]), "support@2")
    assert told["waits"] == [5.0, 5.0]


def engine_down(target: Target) -> None:
    """InternalServerError with 503 after two retries, once the engine is gone."""
    with refused(openai.InternalServerError, 503, "engine_unavailable", SENDS_WITH_RETRIES) as told:
        ask(target.client(**told["options"]))
    assert "starting" in told["error"].message


def engine_fails(target: Target) -> None:
    """InternalServerError with 502 after two retries, when the engine answers 500."""
    with refused(openai.InternalServerError, 502, "engine_error", SENDS_WITH_RETRIES) as told:
        ask(target.client(**told["options"]))
    assert "secret" not in str(told["error"].body)


def broken_stream(target: Target) -> None:
    """A stream that breaks raises APIError after the parts that came; it never looks whole."""
    sent = Sent()
    client = target.client(http_client=sent.http_client)
    stream = client.chat.completions.create(model="support", messages=MESSAGES, stream=True)
    came = [next(stream).choices[0].delta.content for _ in range(2)]
    assert came == ["0 ", "1 "]
    with pytest.raises(openai.APIError, match="middle of the answer") as raised:
        next(stream)
    assert raised.value.code == "engine_error"
    assert sent.count == 1


def _post_raw(client: openai.OpenAI, path: str, content: bytes) -> None:
    client.post(path, cast_to=object, content=content, options={"headers": {"content-type": "application/json"}})


Check = Callable[[Target], None]
ENGINE_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        chat,
        pinned_versions_differ,
        streaming,
        stream_usage,
        several_choices,
        stop_words,
        log_probabilities,
        json_schema,
        models,
        completions,
        responses,
        asynchronous,
        same_as_the_engine,
        request_id,
        wrong_key,
        unknown_model,
        missing_fields,
        wrong_types,
        out_of_range,
        malformed_json,
        too_large,
    )
}
FAULT_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        conflict,
        unprocessable,
        forbidden,
        version_unavailable,
        engine_down,
        engine_fails,
        broken_stream,
    )
}


def main() -> None:
    """Run checks as they are asked for, until there are no more."""
    checks = ENGINE_CHECKS | FAULT_CHECKS
    print(json.dumps({"version": openai.__version__}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        check = checks[order.pop("check")]
        error = None
        try:
            check(Target(**order))
        except (Exception, pytest.fail.Exception):
            error = traceback.format_exc()
        print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    main()
