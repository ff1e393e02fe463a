"""A folder as a source of a running agent: each whole file is one input. Which files are whole is `settling`'s."""

import asyncio
import logging
from pathlib import Path

from outrider_edge.sources.folder import listing, put_away
from outrider_edge.sources.happening import Teller
from outrider_edge.sources.settings import SourceSettings
from outrider_edge.sources.settling import Settling
from outrider_wire.errors import CallerError

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Between two looks: a file that has not changed from one to the next is whole."""
AGAIN_S = 5.0
"""After an error that is not the file's fault; it is then asked about again."""


class FolderSource:
    """`outrider_edge.sources.starting.Source` over a folder; a restarted agent asks again about what still lies there.

    Args:
        settings: of the source.
        teller: of its events.
        look_s: between two looks.
    """

    def __init__(self, settings: SourceSettings, teller: Teller, *, look_s: float = LOOK_S) -> None:
        self._folder = Path(settings.address.place)
        self._done = Path(settings.done) if settings.done else None
        self._teller = teller
        self._look_s = look_s

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            OperatorSetupError: the folder cannot be read, or a file not be moved.
        """
        settling, figures = Settling(), self._teller.figures
        while True:
            found = await asyncio.to_thread(listing, self._folder)
            figures.up()
            for name in settling.whole(found):
                figures.read += 1
                if not await self._take(name):
                    settling.again(name)
                    await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(self._look_s)

    async def _take(self, name: str) -> bool:
        """Asks about one file; False: it is to be asked about again."""
        part, file = self._teller.fitted.part, self._folder / name
        try:
            data = await asyncio.to_thread(_read, file, part.max_bytes + 1)  # one more: too large is said as everywhere
        except OSError as error:
            log.warning("source.file_unreadable", extra={"source": self._teller.source, "what": error.strerror})
            return True
        trouble = await self._teller.one(data, "file", origin=name)
        if trouble is not None and not isinstance(trouble, CallerError):
            return False
        if self._done is not None:
            await asyncio.to_thread(put_away, file, self._done, refused=trouble is not None)
        return True


def _read(file: Path, most: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(most)
