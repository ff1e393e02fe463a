"""Certification items: bit for bit what went in, small, bounded, and never trusted."""

import msgspec
import numpy as np
import pytest

from outrider_engine import items as module
from outrider_engine.items import CertificationItems, decode_items, encode_items
from outrider_wire.errors import BundleDamagedError
from outrider_wire.replay import CertifiedRows, Ladder

RNG = np.random.default_rng(0)
PICTURES = (RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.float32) / np.float32(255) - np.float32(0.45)) / np.float32(
    0.225
)
WORDS = RNG.normal(size=(3, 70_000)).astype(np.float32)
INDEX = {"picture": np.array([0, 1, 2, 3, 4, 0]), "words": np.array([0, 0, 1, 2, 2, 1])}


def rows(n: int = 6) -> CertifiedRows:
    return CertifiedRows(
        labels=np.arange(n) % 2,
        groups=np.arange(n) // 2,
        strata=["colour", "other"] * (n // 2),
        answers=np.zeros(n, np.int64),
        kept=np.arange(n) > 1,
        ladders={"colour": Ladder(thresholds=[0.9, 0.5], coverages=[0.5, 1.0], rows=9)},
    )


def encoded() -> bytes:
    return encode_items(certificate="abc", values={"picture": PICTURES, "words": WORDS}, index=INDEX, rows=rows())


def fields() -> dict[str, object]:
    found = msgspec.msgpack.decode(encoded())
    assert isinstance(found, dict)
    return found


def test_every_bit_comes_back_and_the_same_rows_give_the_same_bytes() -> None:
    found = decode_items(encoded())
    assert isinstance(found, CertificationItems)
    for row, example in enumerate(found.examples(0, 99)):
        for name, values in (("picture", PICTURES), ("words", WORDS)):
            assert example[name].dtype == np.float32
            assert example[name].tobytes() == values[INDEX[name][row]].tobytes()
    assert (found.certificate, found.rows.strata, len(found)) == ("abc", rows().strata, 6)
    assert found.rows.kept.tolist() == rows().kept.tolist()
    assert encoded() == encoded()


@pytest.mark.parametrize("dtype", ["float16", "int64", "int32", "uint8", "bool"])
def test_other_types_come_back_too(dtype: str) -> None:
    values = RNG.integers(0, 2, (4, 3)).astype(dtype)
    index = {"x": np.array([3, 2, 1, 0, 0, 1])}
    found = decode_items(encode_items(certificate="a", values={"x": values}, index=index, rows=rows()))
    assert found.examples(0, 1)[0]["x"].tobytes() == values[3].tobytes()
    assert found.examples(0, 1)[0]["x"].dtype == np.dtype(dtype)


def test_zero_keeps_its_sign() -> None:
    values = np.array([[0.0, -0.0, 1.0]], np.float32)
    found = decode_items(
        encode_items(certificate="a", values={"x": values}, index={"x": np.zeros(6, np.int64)}, rows=rows())
    )
    assert np.signbit(found.examples(0, 1)[0]["x"]).tolist() == [False, True, False]


def test_a_picture_takes_a_byte_a_number_at_most() -> None:
    whole = encode_items(certificate="a", values={"x": PICTURES}, index={"x": INDEX["picture"]}, rows=rows())
    assert len(whole) < PICTURES.size + 256 * 4 + 600


def broken(**changed: object) -> bytes:
    return msgspec.msgpack.encode({**fields(), **changed})


def column(**changed: object) -> bytes:
    tensors = fields()["tensors"]
    assert isinstance(tensors, dict)
    return broken(tensors={**tensors, "picture": {**tensors["picture"], **changed}})


def test_damaged_items_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "cut off": encoded()[:-9],
        "no bytes": b"",
        "another shape": msgspec.msgpack.encode([1, 2]),
        "a label that there is not": broken(labels=[0, 0, 0, 0, 0, 99]),
        "an answer that there is not": broken(answers=[0, 0, 0, 0, 0, 99]),
        "a negative label": broken(labels=[-1, 0, 0, 0, 0, 0]),
        "uneven columns": broken(groups=[0]),
        "no rows": broken(labels=[], groups=[], answers=[], kept=[], stratum=[]),
        "a stratum that there is not": broken(stratum=[0, 0, 0, 0, 0, 7]),
        "kept twice": broken(kept=[2, 0, 0, 0, 0, 0]),
        "a value that there is not": column(rows=[0, 0, 0, 0, 0, 77]),
        "a larger shape": column(shape=[5, 8, 8, 4]),
        "a smaller shape": column(shape=[5, 8, 8, 2]),
        "a shape without end": column(shape=[2**23, 2**23, 8, 3]),
        "a table too small": column(table=b"\0" * 8),
        "a table cut off": column(table=b"\0" * 1023),
        "codes of another width": column(width=4),
        "numbers of another width": column(table=b"", width=1),
        "no deflate": column(codes=b"nothing of the kind"),
        "a type that there is not": column(dtype="object"),
        "more thresholds than coverages": broken(
            ladders={"": {"thresholds": [1.0, 2.0], "coverages": [1.0], "rows": 3}}
        ),
    }
    for what, data in cases.items():
        with pytest.raises(BundleDamagedError) as caught:
            decode_items(data, labels=2)
        assert caught.value.reason == "items_damaged", what
    monkeypatch.setattr(module, "MAX_BYTES", 4000)
    with pytest.raises(BundleDamagedError, match="more than 4000"):
        decode_items(encoded())


def test_any_bytes_are_items_or_refused() -> None:
    whole, rng = encoded(), np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            decode_items(bytes(data), labels=2)
        except BundleDamagedError:
            continue


def test_more_rows_than_the_format_has_are_not_written() -> None:
    with pytest.raises(ValueError, match="more than"):
        encode_items(certificate="a", values={}, index={}, rows=rows(module.MAX_ROWS + 2))
