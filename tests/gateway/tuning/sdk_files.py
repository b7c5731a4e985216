"""What OpenAI's SDK makes of files. Run as a process of its own, because a process holds one version of the SDK.

`python -m tests.gateway.tuning.sdk_files VERSION URL KEY` exits with 0 if all is as it should be.
"""

import io
import sys
import time

import openai
import pytest
from openai.types import FileDeleted, FileObject

ROWS = b'{"messages": [{"role": "user", "content": "caf\xc3\xa9"}]}\n' * 50


def main() -> None:
    """Upload, look, page, download and delete, and be refused as the SDK's errors have it."""
    version, url, key = sys.argv[1:]
    assert openai.__version__.startswith(version + "."), openai.__version__
    client = openai.OpenAI(base_url=url + "/v1", api_key=key, timeout=30.0, max_retries=0)
    _upload_and_delete(client)
    _page(client)
    _refusals(client)


def _upload_and_delete(client: openai.OpenAI) -> None:
    sent = client.files.create(
        file=("tickets é.jsonl", io.BytesIO(ROWS)),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    FileObject.model_validate(sent.to_dict(), strict=True)
    assert (sent.filename, sent.bytes, sent.purpose) == ("tickets é.jsonl", len(ROWS), "fine-tune")
    assert (sent.status, sent.object) == ("processed", "file")
    assert abs(sent.created_at - time.time()) < 60
    assert sent.expires_at is not None
    assert abs(sent.expires_at - sent.created_at - 7200) <= 1
    assert client.files.retrieve(sent.id) == sent
    assert client.files.wait_for_processing(sent.id) == sent
    assert client.files.content(sent.id).read() == ROWS
    with client.files.with_streaming_response.content(sent.id) as answer:
        assert b"".join(answer.iter_bytes()) == ROWS
    deleted = client.files.delete(sent.id)
    FileDeleted.model_validate(deleted.to_dict(), strict=True)
    assert (deleted.id, deleted.deleted, deleted.object) == (sent.id, True, "file")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as raised:
            call(sent.id)
        assert raised.value.code == "not_found"


def _page(client: openai.OpenAI) -> None:
    ids = [client.files.create(file=b"%d" % number, purpose="evals").id for number in range(5)]
    assert client.files.retrieve(ids[0]).expires_at is None
    assert [file.id for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc", purpose="evals")] == ids
    assert [file.id for file in client.files.list(after=ids[3])] == ids[2::-1]
    assert list(client.files.list(purpose="fine-tune")) == []
    for file_id in ids:
        client.files.delete(file_id)


def _refusals(client: openai.OpenAI) -> None:
    retrying = client.with_options(max_retries=2)
    with pytest.raises(openai.BadRequestError, match="fine-tune, evals") as wrong:
        retrying.files.create(file=ROWS, purpose="batch")
    assert wrong.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="empty"):
        retrying.files.create(file=b"", purpose="fine-tune")
    with pytest.raises(openai.APIStatusError) as large:
        retrying.files.create(file=bytes(3 << 20), purpose="fine-tune")
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")


if __name__ == "__main__":
    main()
