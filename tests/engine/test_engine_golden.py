"""Golden examples are replayed, and a model that answers them otherwise is told apart."""

from pathlib import Path

import pytest

from factory import make_bundle, parts_of, sure
from outrider_engine.golden import MAX_EXAMPLES, Golden, check_golden, decode_golden, encode_golden, read_golden
from outrider_engine.model import load_model
from outrider_wire.errors import BundleDamagedError

BUNDLES = Path(__file__).parents[1] / "assets" / "bundles"


def test_a_golden_file_reads_back_with_text_as_utf8() -> None:
    examples = [Golden(parts=parts_of(sure(0), "où?"), logits=[0.25, -1.5])]
    assert decode_golden(encode_golden(examples)) == [
        Golden(parts={"image": sure(0), "question": "où?".encode()}, logits=[0.25, -1.5])
    ]


def test_the_order_of_the_parts_does_not_change_the_file() -> None:
    forward, backward = {"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"}
    files = {encode_golden([Golden(parts=parts, logits=[0.0])]) for parts in (forward, backward)}
    assert len(files) == 1


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x91\x01", encode_golden([]), b"\x91" * 100_000])
def test_bytes_that_are_no_golden_file_are_refused(data: bytes) -> None:
    with pytest.raises(BundleDamagedError):
        decode_golden(data)


def test_more_examples_than_are_replayed_are_refused() -> None:
    with pytest.raises(BundleDamagedError):
        decode_golden(encode_golden([Golden(parts={}, logits=[])] * (MAX_EXAMPLES + 1)))


def test_a_sound_bundle_answers_its_golden_examples(tmp_path: Path) -> None:
    model = load_model(make_bundle(tmp_path / "b"))
    assert len(read_golden(model)) == 5
    assert check_golden(model) == []


def test_every_golden_example_that_fails_is_named() -> None:
    faults = check_golden(load_model(BUNDLES / "wrong-golden"))
    assert len(faults) == 3
    assert faults[0].startswith("golden example 1: a logit is 1 from its golden value")


def test_nan_is_not_within_the_tolerance() -> None:
    faults = check_golden(load_model(BUNDLES / "gives-nan"))
    assert faults and all("NaN" in fault for fault in faults)
