"""An OpenAPI document as a page: everything in it is on the page, and nothing of it can act there."""

from html.parser import HTMLParser
from typing import Any

import pytest

from outrider_link.openapi_page import HEADERS, page

HOSTILE = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """The tags, the links and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "href":
                self.links.add(value or "")
            elif name == "id":
                self.ids.add(value or "")
            assert name not in ("src", "action", "srcset", "background")

    def handle_data(self, data: str) -> None:
        self.words += data


def document() -> dict[str, Any]:
    schema = {
        "type": "object",
        "description": HOSTILE,
        "properties": {
            "many": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}, "maxItems": 7},
            "state": {"enum": ["on", None, HOSTILE], "default": "on"},
            "either": {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "null"}]},
            "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            "odd": {"const": True},
        },
        "required": ["many"],
    }
    operation = {
        "summary": HOSTILE,
        "security": [{"token": []}, {"certificate": []}],
        "parameters": [{"name": "limit", "in": "query", "required": True, "schema": {"type": "integer", "maximum": 9}}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Whole"}}}},
        "responses": {
            "200": {"description": "it", "content": {"text/plain": {"schema": {}}}},
            "404": {"description": "no"},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": HOSTILE, "version": "1"},
        "paths": {f"/v1/{HOSTILE}": {"post": operation}},
        "components": {"schemas": {"Whole": schema, "Part": {"type": "string", "pattern": "^a<b$"}}},
    }


def test_whatever_the_document_says_is_text_on_the_page() -> None:
    read = Reader(page(document()))
    assert "script" not in read.tags
    assert read.words.count("<script>alert(1)</script>") >= 5
    assert read.links == {"openapi.json", "#Part", "#Whole"}
    assert {"Part", "Whole"} <= read.ids
    for said in (
        "POST",
        "limit",
        "≤ 9",
        "required",
        "token or certificate",
        "list of Part",
        "at most 7",
        "object of integer",
    ):
        assert said in read.words, said
    for said in ("404", "^a<b$", "default on", "null", "may be left out", "true", "text/plain"):
        assert said in read.words, said


@pytest.mark.parametrize("empty", [{}, {"paths": {}}, {"paths": {"/x": {"get": {}}}}])
def test_a_document_of_little_makes_a_page_of_little(empty: dict[str, Any]) -> None:
    assert page(empty).endswith("</html>")


def test_a_browser_is_told_to_load_nothing() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
