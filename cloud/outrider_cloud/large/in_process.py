"""What every transformers model in this process shares: how it is loaded, and the one thread that runs it."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest
from outrider_wire.errors import OperatorConfigError

_READ_BYTES = 1 << 20


class InProcess:
    """A model behind the `LargeModel` seam; a subclass gives `replies`."""

    def __init__(self, *, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._name = f"{folder.name}@{digest_of(folder)}"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-model")

    @property
    def name(self) -> str:
        """Name of the folder, and a digest of its weights and configuration."""
        return self._name

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """Computed in the model's own thread, so that the event loop never does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.replies, batch)

    async def close(self) -> None:
        """Waits for the batch in hand."""
        self._thread.shutdown(wait=True)

    def replies(self, batch: Sequence[LargeRequest]) -> list[LargeReply | LargeRefusal]:
        """One reply a request, in order."""
        raise NotImplementedError  # each kind of model has its own


def loaded(kind: Any, folder: Path, *, weights: bool = True, gguf: str = "", **options: Any) -> Any:
    """``kind.from_pretrained`` of a local folder: no network, no code from the folder, no pickles; weights in evaluation mode.

    Raises:
        OperatorConfigError: transformers cannot load it.
    """
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers ships it without types
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
    if gguf:
        options["gguf_file"] = gguf
    elif weights:
        options["use_safetensors"] = True
    try:
        made = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # transformers and its tokenizers raise whatever they meet
        said = " ".join(str(error).split())[:300]
        raise OperatorConfigError(
            f"{folder} does not load as {kind.__name__}: {said}",
            reason="checkpoint_refused",
            fix="name a folder that save_pretrained wrote for both the model and its tokenizer or image processor",
        ) from error
    return made.eval() if weights else made


def digest_of(folder: Path) -> str:
    """Twelve hexadecimal digits over the names and bytes of what was loaded."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".gguf", ".txt", ".model", ".jinja") and file.is_file():
            whole.update(file.name.encode())
            with file.open("rb") as opened:
                while block := opened.read(_READ_BYTES):
                    whole.update(block)
    return whole.hexdigest()[:12]
