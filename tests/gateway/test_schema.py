"""The OpenAPI document, and that what it says is so: schemathesis calls all of it before a fake engine."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from gateway.inference import PATHS
from tests.conftest import RunningGateway
from tests.gateway.answers import new_key

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
EXAMPLES = "12"
# What a route may answer where it says so: no engine or database now; and 502 and 504, on the way to an engine.
EXPECTED = {"^/v1/[cmr]": [502, 503, 504], "^/(admin|readyz)": [503]}


async def schemathesis(gateway: RunningGateway, folder: Path, parameters: dict[str, Any], *which: str) -> str:
    """Call every operation with what its schema allows and forbids; what was found wrong."""
    config = folder / "schemathesis.toml"
    lines = [f'headers = {{ Authorization = "Bearer {gateway.key}" }}', "[parameters]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in parameters.items()]
    for path, statuses in EXPECTED.items():
        allowed = json.dumps(["2xx", "3xx", "4xx", *map(str, statuses)])
        lines += ["[[operations]]", f"include-path-regex = {json.dumps(path)}"]
        lines += [f"checks.not_a_server_error.expected-statuses = {allowed}"]
    config.write_text("\n".join(lines))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(config), "run"),
        *(gateway.url + "/schema/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", EXAMPLES, *which),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--continue-on-failure"),
        *("--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return "" if process.returncode == 0 else output.decode()


async def test_schemathesis_finds_nothing_wrong(two: RunningGateway, tmp_path: Path) -> None:
    """Whatever names and values are tried: no 5xx but documented ones, and no answer outside the document."""
    found = await schemathesis(two, tmp_path, {}, "--exclude-path-regex", "^/admin/v1/keys/")
    assert not found, found
    assert (await two.http.get("/admin/v1/audit")).status_code == 200, "the key was lost on the way"


async def test_schemathesis_finds_nothing_wrong_with_what_exists(two: RunningGateway, tmp_path: Path) -> None:
    """The same on an adapter, a version and a key that are there: changes of all kinds come through, and are right."""
    _, key = await new_key(two)
    there = {"name": "support", "number": 2, "key_id": key["id"]}
    found = await schemathesis(two, tmp_path, there, "--include-path-regex", "^/admin/v1/[^/]+/{")
    assert not found, found
    entries = (await two.http.get("/admin/v1/audit", params={"limit": 1000})).json()["data"]
    done = {entry["action"] for entry in entries}
    assert done >= {"promote", "canary", "shadow", "archive", "update_key", "rotate_key", "revoke_key"}


async def document(gateway: RunningGateway) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = json.loads((await gateway.http.get("/schema")).text)
    return found


async def test_the_document_has_every_route(gateway: RunningGateway) -> None:
    """What the app serves and what the document tells are the same, but for the document itself."""
    paths = (await document(gateway))["paths"]
    told = {(path, method.upper()) for path, operations in paths.items() for method in operations}
    served = {(path, "POST") for path in PATHS} | {
        (getattr(route, "path_format", route.path), method)
        for route in gateway.app.routes
        for method in set(getattr(route, "methods", ())) - {"OPTIONS"}
    }
    assert told == {call for call in served if not call[0].startswith("/schema")}


async def test_the_document_is_whole(gateway: RunningGateway) -> None:
    """References lead somewhere, operations have names of their own, errors are in our envelope."""
    schema = await document(gateway)
    assert schema["openapi"].startswith("3.1")
    for part in json.dumps(schema).split('"$ref": "')[1:]:
        found = schema
        for step in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[step]
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        for status, answer in operation["responses"].items():
            if status >= "400" and operation["operationId"] != "ReadyzReadyz":
                shape = answer["content"]["application/json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/ErrorEnvelope"}
        if operation["tags"] != ["Operations"]:
            assert {"401", "403"} <= operation["responses"].keys()


async def test_bodies_are_described_as_they_are_read(gateway: RunningGateway) -> None:
    """With their bounds, and closed to unknown fields."""
    schemas = (await document(gateway))["components"]["schemas"]
    for name in ("DeploymentPatch", "CanaryOrder", "ShadowOrder", "NewKey", "KeyPatch", "LimitsOrder", "RotationOrder"):
        assert schemas[name]["additionalProperties"] is False, name
    assert schemas["CanaryOrder"]["properties"]["weight"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert schemas["DeploymentPatch"]["required"] == []
