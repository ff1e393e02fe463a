"""An engine's build, from inside its own process: niced, one thread, first to go when memory runs out. Says its progress line by line.

Run as ``python -m outrider_engine.native.build_child``, with a request and the model on standard input. No ``RLIMIT_AS``: CUDA
reserves more address space than any machine has memory, and fails under one. What bounds it is the control group that the agent runs in
(``MemoryMax=`` of its unit), and that the kernel is asked to end this process before any other of the group. It ends with its parent.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from outrider_engine.cache_folder import CacheFolder
from outrider_engine.confining import end_with_parent
from outrider_engine.native.adapters import ADAPTERS
from outrider_engine.native.build import build_engine
from outrider_engine.native.library import load_library
from outrider_engine.native.target import Target
from outrider_engine.walk import walk
from outrider_wire.decodable import decodable
from outrider_wire.errors import BundleMismatchError, OutriderError

NICE = 10
_SAID_EVERY_S = 0.2


class Request(Struct, kw_only=True, frozen=True):
    """What is to be built; the model follows it."""

    target: Target
    folder: str
    """The cache folder that the engine goes into."""
    size: int
    """Bytes of the model."""


class Line(Struct, kw_only=True, frozen=True):
    """One line of standard output."""

    share: float = 0.0
    """0 to 1."""
    phase: str = ""
    done: bool = False
    """The last line."""
    reason: str = ""
    """Of the last line: '' when the engine is in the folder, or the code of what went wrong."""
    detail: str = ""
    """The same for a person."""
    bytes: int = 0
    seconds: float = 0.0


def main(source: BinaryIO) -> int:
    """Builds what ``source`` asks for; the exit status is 0 whatever came of it."""
    end_with_parent()
    os.nice(NICE)
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = msgspec.json.decode(source.readline(), type=decodable(Request))
    try:
        _say(_built(request, source.read(request.size)))
    except OutriderError as error:
        _say(Line(done=True, reason=error.reason, detail=error.what))
    except MemoryError:
        _say(Line(done=True, reason="out_of_memory", detail="the build asks for more memory than there is"))
    except OSError as error:
        _say(Line(done=True, reason="not_written", detail=f"the engine cannot be kept: {error}"))
    return 0


def _built(request: Request, data: bytes) -> Line:
    target, began = request.target, time.monotonic()
    walk(data)
    adapter, library = ADAPTERS[target.library], load_library(target.library)
    if library.__version__ != target.version:
        raise BundleMismatchError(
            f"{target.library} is {library.__version__} by now, not {target.version}", reason="library_changed"
        )
    folder = CacheFolder(Path(request.folder))
    timings = f"timings-{target.library}"
    facts = {name: value for name, value in target.facts.items() if name != "model"}
    saved, _ = folder.load(timings, facts)
    built = build_engine(data, target, adapter=adapter, library=library, saved=saved, tell=_Teller())
    folder.store(target.file, target.facts, built.engine)
    if built.saved:
        folder.store(timings, facts, built.saved)
    return Line(done=True, share=1.0, bytes=len(built.engine), seconds=round(time.monotonic() - began, 3))


class _Teller:
    """Says how far the build is, not too often, and never backwards."""

    def __init__(self) -> None:
        self._share = 0.0
        self._said_at = 0.0

    def __call__(self, phase: str, share: float) -> None:
        self._share = max(self._share, share)
        if time.monotonic() - self._said_at >= _SAID_EVERY_S:
            self._said_at = time.monotonic()
            _say(Line(share=round(self._share, 4), phase=phase))


def _say(line: Line) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
