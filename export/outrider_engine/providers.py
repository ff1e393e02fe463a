"""Which of the wanted execution providers a runtime has, and how the others are had. A pure rule; loads no runtime."""

from collections.abc import Sequence
from typing import NamedTuple

from outrider_wire.errors import OperatorSetupError

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


class Absent(NamedTuple):
    """A provider that was wanted and is not there."""

    name: str
    fix: str


class Usable(NamedTuple):
    """What a list of wanted providers comes to on one machine."""

    providers: tuple[str, ...]
    """In the wanted order; ONNX Runtime gives each what the ones before it cannot run."""
    absent: tuple[Absent, ...]


def usable(wanted: Sequence[str], available: Sequence[str], *, required: Sequence[str] = ()) -> Usable:
    """The wanted providers that are there, in the wanted order, and what is to be done about the rest.

    Raises:
        OperatorSetupError: one of ``required`` is absent, or all that were wanted are.
    """
    absent = tuple(Absent(name, INSTALL.get(name, _OTHERWISE)) for name in wanted if name not in available)
    there = tuple(name for name in wanted if name in available)
    needed = next((each for each in absent if each.name in required), None)
    if needed is None and wanted and not there:
        needed = absent[0]
    if needed is not None:
        raise OperatorSetupError(
            f"this ONNX Runtime has no {needed.name}, only {', '.join(available)}",
            reason="provider_missing",
            fix=needed.fix,
        )
    return Usable(there, absent)
