"""Both HTTP APIs against their own documents, by servers that run: whatever is asked, no server error, and only what is documented."""

import http.client
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from under_attack import UnderAttack

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""What every reply is held against."""

ENDLESS = ("/v1/answers/events", "/v1/events")
"""A stream has no end to wait for; their tests are ``tests/edge/test_edge_outbox_api.py`` and ``test_edge_source_events.py``."""


@pytest.fixture
def addresses(target: UnderAttack) -> dict[str, str]:
    """Of the cloud and the agent, by room."""
    return {"cloud": target.cloud_url, "edge": target.agent_url}


def conforms(address: str, examples: int) -> int:
    """Throws that many sound and as many unsound requests at every operation there but the document; how many operations."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    schema.validate()
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [operation for operation in operations if operation.path not in ENDLESS]
    for operation in operations:
        takes_anything = {"parameters", "requestBody"} & operation.definition.raw.keys()
        for mode in (GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes_anything else ())):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=examples < 50,
            )
            def ask(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=CHECKS, timeout=30)

            with suppress(Unsatisfiable):  # of a text that may be any, none is unsound
                ask()
    return len(operations)


@pytest.mark.parametrize(("room", "operations"), [("cloud", 20), ("edge", 30)])
def test_an_api_is_as_its_document_says(addresses: dict[str, str], room: str, operations: int) -> None:
    assert conforms(addresses[room], examples=2) >= operations


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("room", ["cloud", "edge"])
def test_an_api_is_as_its_document_says_at_length(addresses: dict[str, str], room: str) -> None:
    conforms(addresses[room], examples=300)


@pytest.mark.parametrize("room", ["cloud", "edge"])
def test_every_schema_of_a_document_is_valid_and_every_reply_has_one(addresses: dict[str, str], room: str) -> None:
    document = schemathesis.openapi.from_url(f"{addresses[room]}/openapi.json").raw_schema
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "default" not in operation["responses"], "each status is named, or it is not documented"
            for status, reply in operation["responses"].items():
                contents = reply.get("content", {})
                assert method == "head" or all(content["schema"] for content in contents.values()), (path, status)
                assert method == "head" or contents, (path, status)


HEADERS: dict[str, tuple[str, bytes]] = {
    "a host that is half an address": ("Host", b"["),
    "a host with a NUL escaped": ("Host", b"127.0.0.1%00.evil.example"),
    "an origin that is half an address": ("Origin", b"http://["),
    "an origin that is no URL": ("Origin", b"\xff\xfe"),
    "a token that is no text": ("Authorization", b"Bearer \xff\xfe"),
    "a token of 7,000 letters": ("Authorization", b"Bearer " + b"x" * 7_000),
    "a content type that is no text": ("Content-Type", b"\xff/\xfe"),
    "a content type of 7,000 parameters": ("Content-Type", b"multipart/form-data" + b";a=b" * 1_500),
    "a length that is none": ("Content-Length", b"-1"),
    "a length beyond 64 bits": ("Content-Length", b"99999999999999999999"),
    "an encoding that nobody reads": ("Content-Encoding", b"zstd"),
    "a gzip that is none": ("Content-Encoding", b"gzip"),
    "an expectation": ("Expect", b"the-unexpected"),
    "a range": ("Range", b"bytes=-1"),
}
PATHS = (
    "/v1/account",
    "/v1/answers/%00",
    "/v1/answers/%ED%A0%80",
    "/v1/tasks/%ff/answers",
    "/v1/blobs/%2e%2e",
    "/%",
    "//",
    "/v1/../x",
)


@pytest.mark.parametrize("room", ["cloud", "edge"])
def test_headers_and_paths_that_no_client_sends_are_no_server_error(addresses: dict[str, str], room: str) -> None:
    for (name, value), path, method in (
        *((header, "/v1/account", "GET") for header in HEADERS.values()),
        *((header, "/v1/tasks/colours/answers", "POST") for header in HEADERS.values()),
        *((("X-Nothing", b""), path, method) for path in PATHS for method in ("GET", "POST", "PUT")),
    ):
        host = urlsplit(addresses[room]).netloc
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.putrequest(method, path, skip_host=name == "Host")
        connection.putheader(name, value)
        if method != "GET" and name != "Content-Length":
            connection.putheader("Content-Length", "0")
        connection.endheaders()
        try:
            assert connection.getresponse().status < 500, (room, name, value[:40], path, method)
        except (http.client.HTTPException, ConnectionError):
            pass  # closed without a word: the server takes no such request at all
        finally:
            connection.close()


@pytest.mark.parametrize(
    "query", ["limit=1e9", "limit=-1", "limit=%D9%A1", "limit=" + "9" * 5_000, "limit=1&limit=x", "limit="]
)
def test_a_limit_that_is_none_is_no_server_error(addresses: dict[str, str], query: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(addresses["cloud"]).netloc, timeout=10)
    connection.request("GET", f"/v1/dead-letters?{query}")
    assert connection.getresponse().status in (200, 400)
    connection.close()
