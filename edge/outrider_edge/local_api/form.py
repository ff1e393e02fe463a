"""The fields of a complete ``multipart/form-data`` body (RFC 7578). Pure: the body is whole and bounded before it comes here."""

import re

from outrider_wire.errors import CallerInputError
from outrider_wire.limits import PARTS

_BOUNDARY = re.compile(r";\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;,\"]{1,70}))", re.IGNORECASE)
_NAME = re.compile(rb';\s*name=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_MAX_HEADER_BYTES = 8 * 1024


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The bytes of each field by name.

    Raises:
        CallerInputError: the body is not such a form, ends too early, or has a field without a name, twice, or too many.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise _damaged("its content type names no boundary")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    sections = (b"\r\n" + body).split(delimiter, PARTS + 2)
    if len(sections) < 2:
        raise _damaged("its boundary does not occur in it")
    fields: dict[str, bytes] = {}
    for section in sections[1:]:
        if section.startswith(b"--"):
            return fields
        if len(fields) == PARTS:
            raise CallerInputError(
                f"the form has more than {PARTS} fields", reason="too_many_parts", fix="send one field a part"
            )
        name, data = _field(section)
        if name in fields:
            raise CallerInputError(
                f"part {name[:64]!r} comes twice", reason="duplicate_part", fix="send each part once", part=name[:64]
            )
        fields[name] = data
    raise _damaged("it ends before its last boundary")


def _field(section: bytes) -> tuple[str, bytes]:
    """What stands between two boundaries: a line break, headers, an empty line, and the value."""
    padding, line_break, rest = section.partition(b"\r\n")
    headers, empty_line, data = rest.partition(b"\r\n\r\n")
    if padding.strip() or not line_break or not empty_line or len(headers) > _MAX_HEADER_BYTES:
        raise _damaged("a field has no headers")
    said = {key.strip().lower(): value for key, _, value in (line.partition(b":") for line in headers.split(b"\r\n"))}
    if said.get(b"content-transfer-encoding", b"binary").strip().lower() not in (b"binary", b"8bit"):
        raise _damaged("a field is encoded for transfer; send its bytes as they are")
    if (found := _NAME.search(said.get(b"content-disposition", b""))) is None:
        raise _damaged("a field has no name")
    name = found[2] if found[1] is None else re.sub(rb"\\(.)", rb"\1", found[1])
    return name.decode("utf-8", "replace"), data


def _damaged(what: str) -> CallerInputError:
    return CallerInputError(
        f"the body is not a whole multipart form: {what}", reason="damaged_body", fix="send one field a part"
    )
