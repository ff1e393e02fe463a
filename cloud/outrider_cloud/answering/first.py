"""A small model that the cloud runs itself, for its distribution alone. Decides nothing.

A device's model that has learnt from the large one makes the large one's errors: fused with it, the gain of fusing is gone.
So the first model's distribution may be kept across updates: ``fuse_with`` names its bundle.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from outrider_engine.decoder import PictureDecoder, decoder_of
from outrider_engine.model import Model, load_model
from outrider_wire.errors import BundleMismatchError, CallerInputError, OperatorConfigError
from outrider_wire.images import decode_picture
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.task import Task


class FirstModel:
    """A bundle in a thread of its own."""

    def __init__(self, *, model: Model, task: Task, decoder: PictureDecoder | None = None) -> None:
        if list(model.labels) != task.labels:
            raise BundleMismatchError(
                f"the bundle that fuse_with names has other labels than task {task.name!r}",
                reason="labels_mismatch",
                fix="name a bundle that was built from this task file",
            )
        self._model = model
        self._decoder = decoder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="first-model")

    @property
    def name(self) -> str:
        """Version and digest of the bundle."""
        return f"{self._model.manifest.version}@{self._model.digest[:12]}"

    async def distributions(self, inputs: Sequence[Mapping[str, bytes]]) -> list[list[float] | None]:
        """One distribution an input; None for an input that it cannot read."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._distributions, inputs)

    async def close(self) -> None:
        """Waits for the batch in hand."""
        self._thread.shutdown(wait=True)
        if self._decoder is not None:
            self._decoder.close()

    def _distributions(self, inputs: Sequence[Mapping[str, bytes]]) -> list[list[float] | None]:
        readable, places = [], []
        for place, parts in enumerate(inputs):
            try:
                readable.append(self._model.prepare(parts))
            except CallerInputError:
                continue
            places.append(place)
        said: list[list[float] | None] = [None] * len(inputs)
        for place, inference in zip(places, self._model.infer(readable), strict=True):
            said[place] = inference.probabilities.tolist()
        return said


def load_first(folder: str, task: Task, *, threads: int) -> FirstModel | None:
    """The model in that folder, verified and warm; None where no folder is named. Takes seconds: not on the event loop.

    Raises:
        OperatorConfigError: there is no bundle.
        BundleError: it is damaged, unsafe or not for this task.
    """
    if not folder:
        return None
    if not Path(folder, MANIFEST_FILE).is_file():
        raise OperatorConfigError(
            f"fuse_with of task {task.name!r} names no bundle: {folder}",
            reason="no_first_model",
            fix="name the folder of the small model's first bundle, or leave fuse_with out",
        )
    decoder = decoder_of(task.inputs)
    model = load_model(Path(folder), threads=threads, bounds=task.inputs, decode=decoder or decode_picture)
    return FirstModel(model=model, task=task, decoder=decoder)
