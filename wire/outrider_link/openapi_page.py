"""An OpenAPI document as one page for people. Pure text, without a script and without anything from elsewhere; serves nothing.

Every text of the document is escaped, and the page's policy lets a browser load nothing at all.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Json = Mapping[str, Any]

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
code,.path{font-family:ui-monospace,monospace;font-size:.93em}
details{border:1px solid var(--line);border-radius:6px;margin:.4rem 0}
summary{padding:.4rem .7rem;cursor:pointer;background:var(--soft)}
details>div{padding:.3rem .9rem .8rem}
.m{display:inline-block;min-width:4rem;font-weight:700}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-top:1px solid var(--line)}
th{font-weight:600}small{opacity:.75}
"""
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""With which the page is served."""
_REF = "#/components/schemas/"
_BOUNDS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {}"),
    ("maxItems", "at most {}"),
    ("pattern", "matches {}"),
)


def page(document: Json, *, source: str = "openapi.json") -> str:
    """The whole page.

    Args:
        document: OpenAPI 3.1, as plain data.
        source: where the document itself is, relative to the page.
    """
    about = document.get("info", {})
    title = escape(f"{about.get('title', '')} {about.get('version', '')}".strip())
    operations = "".join(_operations(document.get("paths", {})))
    schemas = "".join(_schema(name, each) for name, each in sorted(_schemas(document).items()))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(about.get('description', ''))} "
        f'<a href="{escape(source)}">The same for programs</a> (OpenAPI {escape(document.get("openapi", ""))}).</p>'
        f"<h2>Operations</h2>{operations}<h2>Shapes</h2>{schemas}</body></html>"
    )


def _schemas(document: Json) -> Json:
    found: Json = document.get("components", {}).get("schemas", {})
    return found


def _operations(paths: Json) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            head = (
                f'<span class="m">{escape(method.upper())}</span> <span class="path">{escape(path)}</span>'
                f" – {escape(operation.get('summary', ''))}"
            )
            yield f"<details><summary>{head}</summary><div>{''.join(_inside(operation))}</div></details>"


def _inside(operation: Json) -> Iterator[str]:
    if who := " or ".join(_guards(operation.get("security", []))):
        yield f"<p><small>needs: {escape(who)}</small></p>"
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"<code>{escape(each['name'])}</code><br><small>{escape(each['in'])}"
                f"{', required' if each.get('required') else ''}</small>",
                _type(each.get("schema", {})),
                escape(each.get("description", "")),
            )
            for each in parameters
        ]
        yield _table(("parameter", "type", ""), rows)
    if body := operation.get("requestBody"):
        yield _table(("body", "shape"), list(_contents(body.get("content", {}))))
    rows = [
        (f"<code>{escape(status)}</code>", escape(reply.get("description", "")), _shapes(reply.get("content", {})))
        for status, reply in operation.get("responses", {}).items()
    ]
    yield _table(("status", "means", "gives"), rows)


def _guards(security: Sequence[Json]) -> Iterator[str]:
    yield from (name for guard in security for name in guard)


def _contents(content: Json) -> Iterator[tuple[str, str]]:
    for media_type, each in content.items():
        yield f"<code>{escape(media_type)}</code>", _type(each.get("schema", {}))


def _shapes(content: Json) -> str:
    return "<br>".join(f"{shape} <small>{media}</small>" for media, shape in _contents(content))


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            f"<code>{escape(key)}</code>{'' if key in required else '<br><small>may be left out</small>'}",
            _type(each),
            escape(each.get("description", "")),
        )
        for key, each in schema.get("properties", {}).items()
    ]
    inside = f"<p>{escape(schema.get('description', ''))}</p>" + (
        _table(("key", "type", ""), rows) if rows else _type(schema)
    )
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><div>{inside}</div></details>'


def _type(schema: Json) -> str:
    """A schema in a few words; what is named is linked to."""
    if reference := schema.get("$ref"):
        name = escape(str(reference).removeprefix(_REF))
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(map(_type, schema[key]))
    if "enum" in schema:
        said = " | ".join(f"<code>{escape(_plain(each))}</code>" for each in schema["enum"])
    elif "const" in schema:
        said = f"<code>{escape(_plain(schema['const']))}</code>"
    elif schema.get("type") == "array":
        said = f"list of {_type(schema.get('items', {}))}"
    elif isinstance(inner := schema.get("additionalProperties"), Mapping):
        said = f"object of {_type(inner)}"
    else:
        said = escape(" | ".join(_listed(schema.get("type", "anything"))))
    bounds = [form.format(f"<code>{escape(_plain(schema[key]))}</code>") for key, form in _BOUNDS if key in schema]
    if "default" in schema:
        bounds.append(f"default <code>{escape(_plain(schema['default']))}</code>")
    return f"{said} <small>{', '.join(bounds)}</small>" if bounds else said


def _listed(kind: object) -> list[str]:
    return [str(each) for each in kind] if isinstance(kind, list) else [str(kind)]


def _plain(value: object) -> str:
    return (
        json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, bool | list | dict) else str(value)
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
