"""Which large model a configuration means: one table from the kind before the colon to what loads it.

The kinds themselves are checked with the configuration, before anything starts.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from outrider_cloud.config import TaskSettings
from outrider_cloud.large.base import LargeModel
from outrider_cloud.large.zero import ZeroModel
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.task import Task

Loader = Callable[[str, TaskSettings, Task], LargeModel]


def load_large(settings: TaskSettings, task: Task) -> LargeModel:
    """Loads the large model of a task; takes seconds, so not on the event loop.

    Raises:
        OperatorConfigError: there is no bundle where one should be.
        BundleError: the bundle is damaged, unsafe or not for this task.
    """
    kind, _, rest = settings.large.partition(":")
    return LOADERS[kind](rest, settings, task)


def _onnx(folder: str, settings: TaskSettings, task: Task) -> LargeModel:
    if not Path(folder, MANIFEST_FILE).is_file():
        raise OperatorConfigError(
            f"the large model of task {task.name!r} is not there: {folder} holds no bundle",
            reason="no_large_model",
            fix='export one with `outrider export run` and name its folder: large = "onnx:DIR"',
        )
    from outrider_cloud.large.onnx_expert import OnnxExpert
    from outrider_engine.model import load_model

    return OnnxExpert(model=load_model(Path(folder), threads=settings.threads, bounds=task.inputs), task=task)


def _zero(says: str, settings: TaskSettings, task: Task) -> LargeModel:
    return ZeroModel(says="echo" if says == "echo" else "uniform")


LOADERS: Mapping[str, Loader] = {"onnx": _onnx, "zero": _zero}
