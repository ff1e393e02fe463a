"""Which large model a configuration means: one table from the kind before the colon to what loads it.

The kinds themselves are checked with the configuration, before anything starts.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from outrider_cloud.config import TaskSettings
from outrider_cloud.large.base import LargeModel
from outrider_cloud.large.prompts import check_codes
from outrider_cloud.large.zero import ZeroModel
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, UnreachableError
from outrider_wire.images import decode_picture
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.task import Task

if TYPE_CHECKING:
    from outrider_cloud.large.compatible import CompatibleServer

log = logging.getLogger(__name__)

Loader = Callable[[str, TaskSettings, Task], LargeModel]


def load_large(settings: TaskSettings, task: Task) -> LargeModel:
    """Loads the large model of a task; takes seconds, so not on the event loop.

    Raises:
        OperatorConfigError: there is no bundle, checkpoint or model where one should be, or it cannot answer this task.
        OperatorSetupError: a library is missing.
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
    from outrider_engine.bundle import open_bundle
    from outrider_engine.decoder import decoder_of
    from outrider_engine.model import load_model
    from outrider_wire.steps import bounds_of

    bundle = open_bundle(Path(folder))
    bounds = bounds_of(task, bundle.manifest.inputs)
    decoder = decoder_of(task.inputs)
    model = load_model(bundle, threads=settings.threads, bounds=bounds, decode=decoder or decode_picture)
    return OnnxExpert(model=model, task=task, decoder=decoder)


def _transformers(folder: str, settings: TaskSettings, task: Task) -> LargeModel:
    from outrider_cloud.large.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(Path(folder))
    try:
        from outrider_cloud.large.causal import CausalModel
        from outrider_cloud.large.classifier import Classifier
    except ModuleNotFoundError as error:
        raise OperatorSetupError(
            f"the large model of task {task.name!r} needs {error.name}, which is not installed",
            reason="missing_extra",
            fix="pip install 'outrider[transformers]'",
        ) from error
    if checkpoint.head == "causal":
        return CausalModel(
            checkpoint=checkpoint,
            task=task,
            prior=settings.asking.prior,
            threads=settings.threads,
            price_in=settings.asking.price_in,
        )
    return Classifier(checkpoint=checkpoint, task=task, threads=settings.threads)


def _openai(place: str, settings: TaskSettings, task: Task) -> LargeModel:
    """A server that does not answer yet is no reason not to start; one that has no such model is."""
    from outrider_cloud.large.compatible import CompatibleServer

    url, _, model = place.rpartition("#")
    key = _key(settings.asking.api_key_env)
    server = CompatibleServer(url=url, model=model, key=key, task=task, asking=settings.asking)
    check_codes(task)
    try:
        asyncio.run(_looked_at(server))
    except UnreachableError as error:
        log.warning("large_model.unreachable", extra={"task": task.name, "what": str(error)})
    return server


async def _looked_at(server: "CompatibleServer") -> None:
    try:
        await server.look()
    finally:
        await server.close()  # connections belong to the loop that made them


def _key(variable: str) -> str:
    if not variable:
        return ""
    if not (key := os.environ.get(variable, "").strip()):
        raise OperatorConfigError(
            f"asking.api_key_env names the environment variable {variable}, which is not set",
            reason="no_api_key",
            fix=f"set {variable} to the server's API key",
        )
    return key


def _zero(says: str, settings: TaskSettings, task: Task) -> LargeModel:
    return ZeroModel(says="echo" if says == "echo" else "uniform")


LOADERS: Mapping[str, Loader] = {"onnx": _onnx, "zero": _zero, "transformers": _transformers, "openai": _openai}
