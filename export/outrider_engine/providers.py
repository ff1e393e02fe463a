"""Which of the wanted providers can be used here, and why not the others. Pure: imports no runtime.

A wish names, in order of preference, execution providers of ONNX Runtime and the native engines of `NATIVE_PROVIDERS`. The latter
are built in the background and take over from ONNX Runtime (`outrider_engine.native`), so that a wish without one of ONNX
Runtime's own providers is completed by the processor.
"""

from collections.abc import Sequence
from typing import NamedTuple

NATIVE_PROVIDERS = ("tensorrt", "tensorrt_rtx")
"""Engines that run without ONNX Runtime."""
CPU = "CPUExecutionProvider"


class PassedOver(NamedTuple):
    """A provider that was wanted and does not run."""

    provider: str
    reason: str


class Wish(NamedTuple):
    """A list of wanted providers, told apart."""

    native: tuple[str, ...]
    """Engines to build, in order of preference."""
    onnx: tuple[str, ...]
    """ONNX Runtime's, in order; empty: the one that the bundle names."""


class Choice(NamedTuple):
    """What ONNX Runtime is asked to use."""

    use: tuple[str, ...]
    passed: tuple[PassedOver, ...]


def wish(wanted: Sequence[str]) -> Wish:
    """Tells native engines from ONNX Runtime's providers, each once, in their order."""
    names = tuple(dict.fromkeys(wanted))
    return Wish(tuple(n for n in names if n in NATIVE_PROVIDERS), tuple(n for n in names if n not in NATIVE_PROVIDERS))


def choose(wanted: Sequence[str], available: Sequence[str]) -> Choice:
    """Of the wanted providers those that this ONNX Runtime was built with, in order."""
    lacking = tuple(
        PassedOver(name, f"this ONNX Runtime was built without it: it has {', '.join(available)}")
        for name in wanted
        if name not in available
    )
    return Choice(tuple(name for name in wanted if name in available), lacking)


def not_started(asked: Sequence[str], running: Sequence[str]) -> tuple[PassedOver, ...]:
    """Those that ONNX Runtime has and left out when it made the session: it says so on its log only, and goes on."""
    reason = "ONNX Runtime could not start it: its libraries or its device are missing here"
    return tuple(PassedOver(name, reason) for name in asked if name not in running)
