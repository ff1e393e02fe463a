"""The libraries that a checkpoint needs, imported when it is there, asking no hub and saying nothing that nobody can act on."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from outrider_wire.errors import OperatorSetupError

INSTALL = "pip install outrider[huggingface]"


def library(name: str) -> Any:
    """The module of that name.

    Raises:
        OperatorSetupError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OperatorSetupError(
            f"a Hugging Face checkpoint needs transformers and optimum: {error}", reason="no_huggingface", fix=INSTALL
        ) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A block in which transformers and optimum keep still; as they were afterwards.

    Raises:
        OperatorSetupError: transformers is not installed.
    """
    for switch in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(switch, "1")
    chatter = library("transformers.utils.logging")
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("optimum", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in others]
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
        for logger, before in zip(others, levels, strict=True):
            logger.setLevel(before)
