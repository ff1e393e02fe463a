"""Graphs that ONNX Runtime has optimised, kept between starts. Knows when one may be used again, and neither bundles nor sessions.

An optimised graph holds operators and memory layouts of one processor and one version of the runtime (ONNX Runtime,
"Graph optimizations", offline mode), and has not been walked: so it is taken only from a folder that nobody else writes,
under a seal that names what it was made of.
"""

import hashlib
import logging
import os
import platform
import secrets
from functools import cache
from pathlib import Path

from outrider_engine.cache_folder import CacheFolder

log = logging.getLogger(__name__)

_CPU_LINES = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")


class GraphCache:
    """Optimised graphs by what they were made of. Blocks.

    Args:
        folder: where they lie.
        runtime: name and version of the runtime.
        processor: what it runs on; None: this machine's.
    """

    def __init__(self, folder: CacheFolder, *, runtime: str, processor: str | None = None) -> None:
        self._folder = folder
        self._runtime = runtime
        self._processor = processor or this_processor()

    def load(self, data: bytes) -> bytes | None:
        """The optimised graph of the model ``data``; None: there is none that may be used."""
        name, facts = self._key(data)
        found, _ = self._folder.load(name, facts)
        return found or None

    def store(self, data: bytes, optimised: bytes) -> None:
        """Keeps the optimised graph of ``data``; a disk that is full costs no more than the time saved."""
        name, facts = self._key(data)
        try:
            self._folder.store(name, facts, optimised)
        except OSError as error:
            log.warning("graph.not_kept", extra={"file": name, "what": str(error)})

    def drop(self, data: bytes) -> None:
        """Forgets the optimised graph of ``data``: the runtime refuses it."""
        self._folder.drop(self._key(data)[0])

    def scratch(self) -> Path:
        """A new file name in the folder, for the runtime to write to."""
        return self._folder.folder / f".{os.getpid()}-{secrets.token_hex(4)}.onnx"

    def _key(self, data: bytes) -> tuple[str, dict[str, str]]:
        digest = hashlib.sha256(data).hexdigest()
        facts = {"model": digest, "runtime": self._runtime, "processor": self._processor}
        return f"graph-{digest[:32]}", facts


@cache
def this_processor() -> str:
    """Digest of what the first processor says of itself, with the kind of machine; a graph is of no use to another."""
    said = [platform.machine(), platform.processor()]
    info = Path("/proc/cpuinfo")
    if info.exists():
        first = info.read_text(errors="replace").split("\n\n")[0].splitlines()
        said += [line for line in first if line.split("\t")[0].strip() in _CPU_LINES]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
