"""A folder as a source of a running agent: each whole file is one input. Which files are whole is `settling`'s."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from outrider_edge.sources.attempts import PAUSES_S, Attempts, is_of_the_file
from outrider_edge.sources.folder import listing, put_away
from outrider_edge.sources.happening import Teller
from outrider_edge.sources.settings import SourceSettings
from outrider_edge.sources.settling import Mark, Settling
from outrider_wire.errors import CallerError

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Between two looks: a file that has not changed from one to the next is whole."""
AGAIN_S = 5.0
"""After an error that is this machine's, as a disk that is full; the file is then asked about again."""


class FolderSource:
    """`outrider_edge.sources.starting.Source` over a folder; a restarted agent asks again about what still lies there.

    Args:
        settings: of the source.
        teller: of its events.
        look_s: between two looks.
        pauses_s: before each further attempt on a file on which the model fails.
    """

    def __init__(
        self, settings: SourceSettings, teller: Teller, *, look_s: float = LOOK_S, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        self._folder = Path(settings.address.place)
        self._done = Path(settings.done) if settings.done else None
        self._teller = teller
        self._look_s = look_s
        self._attempts = Attempts(pauses_s)

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            OperatorSetupError: the folder cannot be read, or a file not be moved.
        """
        settling, figures = Settling(), self._teller.figures
        while True:
            found = await asyncio.to_thread(listing, self._folder)
            figures.up()
            for name in self._attempts.due(found, time.monotonic()):
                settling.again(name)
            for name in settling.whole(found):
                figures.read += 1
                if not await self._take(name, found[name]):
                    settling.again(name)
                    await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(self._look_s)

    async def _take(self, name: str, mark: Mark) -> bool:
        """Asks about one file; False: this machine lacks something, and no other can be asked about either."""
        part, file = self._teller.fitted.part, self._folder / name
        try:
            data = await asyncio.to_thread(_read, file, part.max_bytes + 1)  # one more: too large is said as everywhere
        except OSError as error:
            log.warning("source.file_unreadable", extra={"source": self._teller.source, "what": error.strerror})
            return True
        trouble = await self._teller.one(data, "file", origin=name)
        if trouble is not None and is_of_the_file(trouble):
            if self._attempts.failed(name, mark, time.monotonic()):
                return True
            log.warning("source.file_failed", extra={"source": self._teller.source, "what": str(trouble)})
        elif trouble is not None and not isinstance(trouble, CallerError):
            return False
        if self._done is not None:
            await asyncio.to_thread(put_away, file, self._done, trouble=trouble)
        return True


def _read(file: Path, most: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(most)
