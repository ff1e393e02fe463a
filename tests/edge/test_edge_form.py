"""``multipart/form-data``: what a form holds, and that no bytes make it anything but an error of the caller."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_edge.local_api.form import form_fields
from outrider_wire.errors import CallerInputError

TYPE = "multipart/form-data; boundary=xyz"
FIELD = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
QUESTION = b'\r\n--xyz\r\nContent-Disposition: form-data; name="question"\r\n\r\nis it red?'
END = b"\r\n--xyz--\r\n"


@given(st.binary(max_size=200).filter(lambda data: b"\r\n--xyz" not in data and not data.startswith(b"--xyz")))
def test_bytes_of_a_field_come_out_as_they_went_in(data: bytes) -> None:
    assert form_fields(FIELD + data + QUESTION + END, TYPE) == {"image": data, "question": b"is it red?"}


def test_a_boundary_in_quotes_and_a_preamble_are_read() -> None:
    body = b"preamble\r\n" + FIELD + b"x" + END
    assert form_fields(body, 'multipart/form-data; charset=utf-8; boundary="xyz"') == {"image": b"x"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"garbage", "damaged_body"),
        (FIELD + b"cut short", "damaged_body"),
        (FIELD[:30], "damaged_body"),
        (b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx" + END, "damaged_body"),
        (b"--xyz\r\n\r\nx" + END, "damaged_body"),
        (FIELD + b"x\r\n" + FIELD + b"y" + END, "duplicate_part"),
        (
            b"".join(b'--xyz\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(17))
            + b"--xyz--",
            "too_many_parts",
        ),
    ],
)
def test_a_damaged_form_is_the_callers(body: bytes, reason: str) -> None:
    with pytest.raises(CallerInputError) as caught:
        form_fields(body, TYPE)
    assert caught.value.reason == reason


def test_a_form_without_a_boundary_is_the_callers() -> None:
    with pytest.raises(CallerInputError, match="no boundary"):
        form_fields(FIELD, "multipart/form-data")


@given(st.binary(max_size=300), st.text(max_size=60))
def test_no_bytes_do_anything_but_parse_or_be_refused(body: bytes, kind: str) -> None:
    for content_type in (TYPE, kind, f"multipart/form-data; boundary={kind}"):
        try:
            assert all(isinstance(name, str) for name in form_fields(body, content_type))
        except CallerInputError as error:
            assert error.reason
