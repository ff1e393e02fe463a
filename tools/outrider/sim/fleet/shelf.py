"""What the devices of one process share, so that two hundred fit on two cores: loaded models and self-tests' verdicts, by digest."""

import threading
import zlib
from pathlib import Path

from outrider.sim.fleet.goods import TASK
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model, load_model
from outrider_engine.selftest import SelfTestReport, run_selftest
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest

TESTED = 20
"""One device in so many runs the self-test's child process itself; the others take the verdict on the same bytes."""


class Shelf:
    """Every device verifies its own files before it asks here. A model is read-only once it is loaded, and is run by many threads."""

    def __init__(self) -> None:
        self.children = 0
        """Self-tests that were really run."""
        self.taken = 0
        """Verdicts that were taken from an earlier one."""
        self._models: dict[str, Model] = {}
        self._verdicts: dict[str, SelfTestReport] = {}
        self._loading = threading.Lock()
        self._testing = threading.Lock()

    def load(self, bundle: Bundle) -> Model:
        """The model of a verified bundle."""
        with self._loading:
            if bundle.digest not in self._models:
                self._models[bundle.digest] = load_model(bundle, bounds=TASK.inputs)
            return self._models[bundle.digest]

    def selftest(self, device: str, bundle: Path) -> SelfTestReport:
        """In a child, or the verdict on a release with the same digest. Blocks."""
        digest = manifest_digest((bundle / MANIFEST_FILE).read_bytes())
        spared = zlib.crc32(device.encode()) % TESTED > 0
        if spared and digest in self._verdicts:  # nobody waits for a child of another's
            self.taken += 1
            return self._verdicts[digest]
        with self._testing:
            if spared and digest in self._verdicts:
                self.taken += 1
                return self._verdicts[digest]
            self.children += 1
            self._verdicts[digest] = found = run_selftest(bundle)
            return found
