"""Every row of the table of attacks gets its refusal from the parser it is aimed at: the error of the guilty side, and its reason."""

import time
import tracemalloc
from collections.abc import Callable
from typing import get_args

import pytest
from attacks import ASSETS, ATTACKS, MODELS, Attack, Surface

from factory import make_task
from outrider_edge.local_api.form import form_fields
from outrider_edge.local_api.submission import parts_of_body
from outrider_engine.walk import walk
from outrider_wire.codec import decode
from outrider_wire.errors import (
    BundleError,
    CallerInputError,
    OperatorConfigError,
    OutriderError,
    PeerError,
    PeerMessageError,
)
from outrider_wire.images import decode_picture
from outrider_wire.limits import IMAGE_PIXELS
from outrider_wire.manifest import decode_manifest
from outrider_wire.steps import Preparer
from outrider_wire.task import parse_task
from outrider_wire.topics import Topics

MEMORY_BYTES = 64 << 20
"""No refusal takes more than this in Python's own memory."""
_TASK_PARTS = Preparer([], bounds=make_task().inputs)

PARSERS: dict[Surface, tuple[type[OutriderError], Callable[[Attack], object]]] = {
    "message": (PeerError, lambda attack: decode(attack.data, attack.coding)),
    "topic": (PeerMessageError, lambda attack: Topics().parse(attack.data.decode("utf-8", "surrogateescape"))),
    "picture": (
        CallerInputError,
        lambda attack: decode_picture(attack.data, part="image", mode="RGB", max_pixels=IMAGE_PIXELS),
    ),
    "task": (OperatorConfigError, lambda attack: parse_task(attack.data.decode(), "task.toml")),
    "manifest": (BundleError, lambda attack: decode_manifest(attack.data)),
    "model": (BundleError, lambda attack: walk(attack.data)),
    "form": (CallerInputError, lambda attack: _TASK_PARTS.prepare(parts_of_body(attack.data, attack.coding))),
}


def test_every_surface_is_attacked_and_no_attack_stands_twice() -> None:
    assert {attack.surface for attack in ATTACKS} == set(get_args(Surface)) == set(PARSERS)
    assert len({str(attack) for attack in ATTACKS}) == len(ATTACKS) > 150


def test_every_hostile_model_on_file_is_in_the_table() -> None:
    assert {path.stem for path in (ASSETS / "models").iterdir()} == set(MODELS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_is_refused_for_its_reason(attack: Attack) -> None:
    guilty, parse = PARSERS[attack.surface]
    with pytest.raises(guilty) as caught:
        parse(attack)
    assert caught.value.reason == attack.reason
    assert len(str(caught.value)) < 1_000, "a hostile value must not flood the log"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_attack_takes_memory_or_long() -> None:
    """A bomb is one because its refusal comes too late: all of them together, against one bound each."""
    tracemalloc.start()
    try:
        for attack in ATTACKS:
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.monotonic()
            with pytest.raises(OutriderError):
                PARSERS[attack.surface][1](attack)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_BYTES, attack
            assert time.monotonic() - began < 60, attack
    finally:
        tracemalloc.stop()


def test_the_parsers_take_what_is_sound() -> None:
    """The negative control: a table that refuses everything would pass the tests above."""
    assert parse_task((ASSETS / "bundles" / "sound" / "../../../../edge/outrider_edge/demo/task.toml").read_text())
    assert decode_manifest((ASSETS / "bundles" / "sound" / "manifest.json").read_bytes())
    assert walk((ASSETS / "bundles" / "sound" / "model.onnx").read_bytes())
    assert Topics().parse("outrider/1/cam-7/up/escalate/colours").device == "cam-7"
    assert form_fields(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--', "m/f; boundary=x") == {
        "a": b"b"
    }
