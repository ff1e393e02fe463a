"""Which of the wanted providers can be used here, why not the others, and how those are had. A pure rule; loads no runtime.

A wish names, in order of preference, execution providers of ONNX Runtime and the native engines of `NATIVE_PROVIDERS`. The latter
are built in the background and take over from ONNX Runtime (`outrider_engine.native`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from outrider_wire.errors import OperatorSetupError
from outrider_wire.profile import NATIVE_PROVIDERS

CPU = "CPUExecutionProvider"
_NVIDIA = (
    "install NVIDIA's ONNX Runtime in place of onnxruntime: pip uninstall onnxruntime, then pip install "
    "onnxruntime-gpu (on a Jetson: the wheel that is built for its JetPack)"
)
INSTALL = {
    "TensorrtExecutionProvider": _NVIDIA,
    "CUDAExecutionProvider": _NVIDIA,
    "OpenVINOExecutionProvider": "pip uninstall onnxruntime, then pip install onnxruntime-openvino",
    "QNNExecutionProvider": "pip uninstall onnxruntime, then pip install onnxruntime-qnn",
    "MIGraphXExecutionProvider": "pip uninstall onnxruntime, then pip install onnxruntime-migraphx",
    "XnnpackExecutionProvider": "build ONNX Runtime with --use_xnnpack, or take it out of the list",
    "ACLExecutionProvider": "build ONNX Runtime with --use_acl, or take it out of the list",
}
"""Provider → how it comes to a machine."""
_OTHERWISE = "install the ONNX Runtime that is built for your hardware, or take it out of the list"


class PassedOver(NamedTuple):
    """A provider that was wanted and does not run."""

    provider: str
    reason: str
    fix: str = ""


class Wish(NamedTuple):
    """A list of wanted providers, told apart."""

    native: tuple[str, ...]
    """Engines to build, in order of preference."""
    onnx: tuple[str, ...]
    """ONNX Runtime's, in order; empty: the one that the bundle names."""


class Usable(NamedTuple):
    """What a list of ONNX Runtime's providers comes to on one machine."""

    providers: tuple[str, ...]
    """In the wanted order; ONNX Runtime gives each what the ones before it cannot run."""
    absent: tuple[PassedOver, ...]


def wish(wanted: Sequence[str]) -> Wish:
    """Tells native engines from ONNX Runtime's providers, each once, in their order."""
    names = tuple(dict.fromkeys(wanted))
    return Wish(tuple(n for n in names if n in NATIVE_PROVIDERS), tuple(n for n in names if n not in NATIVE_PROVIDERS))


def usable(wanted: Sequence[str], available: Sequence[str], *, required: Sequence[str] = ()) -> Usable:
    """Those of ONNX Runtime's wanted providers that are there, in the wanted order, and what is to be done about the rest.

    Raises:
        OperatorSetupError: one of ``required`` is absent, or all that were wanted are.
    """
    lacks = f"this ONNX Runtime was built without it: it has {', '.join(available)}"
    absent = tuple(PassedOver(name, lacks, INSTALL.get(name, _OTHERWISE)) for name in wanted if name not in available)
    there = tuple(name for name in wanted if name in available)
    needed = next((each for each in absent if each.provider in required), None)
    if needed is None and wanted and not there:
        needed = absent[0]
    if needed is not None:
        raise OperatorSetupError(
            f"this ONNX Runtime has no {needed.provider}, only {', '.join(available)}",
            reason="provider_missing",
            fix=needed.fix,
        )
    return Usable(there, absent)


def not_started(asked: Sequence[str], running: Sequence[str]) -> tuple[PassedOver, ...]:
    """Those that ONNX Runtime has and left out when it made the session: it says so on its log only, and goes on.

    Raises:
        OperatorSetupError: none of them runs.
    """
    reason = "ONNX Runtime could not start it: its libraries or its device are missing here"
    idle = tuple(PassedOver(name, reason, INSTALL.get(name, _OTHERWISE)) for name in asked if name not in running)
    if asked and not set(asked) & set(running):
        raise OperatorSetupError(
            f"none of the wanted providers runs here: {', '.join(asked)}: {reason}",
            reason="provider_missing",
            fix=f"add {CPU} to runtime.providers, or install what they need",
        )
    return idle
