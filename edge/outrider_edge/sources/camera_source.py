"""A camera as a source: looks at its small frames, and asks about one picture an event. Knows no decoder: that is the child's.

quiet ── the gate says ``began`` ── ``new``; the frame is kept
event ── more differs than before ── this frame is kept instead, until ``look_s`` is over
      ── ``look_s`` is over, or it ends before ── the kept picture is asked about: the one question ── ``update``, …
      ── the gate says ``ended``, the camera is lost, the agent stops ── ``end``
"""

import asyncio
import logging
import shlex

from outrider_edge.sources.events import EndedBy
from outrider_edge.sources.happening import Happening, Teller
from outrider_edge.sources.settings import SourceSettings
from outrider_edge.video.camera import Camera, EndOfVideo, Frame, camera
from outrider_edge.video.motion import Seen, State, after
from outrider_edge.video.protocol import Plan
from outrider_wire.task import InputPart

log = logging.getLogger(__name__)

BASE_MB = 768
"""Address space of the child: the libraries take 400 MB of it."""
BYTES_PER_PIXEL = 96
"""Reference frames of a decoder, and a picture in colour beside them."""
_KIND = {"camera": "camera", "csi": "csi", "file": "file", "stream": "stream"}


DECODED_PIXELS = 4096 * 2304
"""Frames of cameras have as many, whatever the task takes: pictures are made smaller for it."""


def plan_of(settings: SourceSettings, part: InputPart) -> Plan:
    """What the child is told; pictures are bounded as the task's part is.

    Raises:
        OperatorConfigError: the password's file cannot be used.
    """
    address, max_pixels = settings.address, max(DECODED_PIXELS, part.max_pixels)
    return Plan(
        kind=_KIND[address.kind],  # type: ignore[arg-type]  # a camera's source is of one of these kinds
        place=address.place,
        username=settings.username,
        password=settings.password,
        width=settings.width,
        height=settings.height,
        pixel_format=settings.pixel_format,
        pipeline=shlex.split(settings.pipeline),
        transport=settings.transport,
        max_fps=settings.max_fps,
        max_pixels=max_pixels,
        picture_pixels=part.max_pixels,
        picture_bytes=part.max_bytes,
        quality=settings.quality,
        timeout_s=settings.stall_s,
        memory_mb=BASE_MB + (BYTES_PER_PIXEL * max_pixels >> 20),
    )


class CameraSource:
    """`outrider_edge.sources.starting.Source` over a camera, a stream or a video file.

    Args:
        settings: of the source.
        teller: of its events.
    """

    def __init__(self, settings: SourceSettings, teller: Teller) -> None:
        self._settings = settings
        self._teller = teller
        self._plan = plan_of(settings, teller.fitted.part)
        self._event: Happening | None = None
        self._state = State()

    async def run(self) -> None:
        """One connection, until it ends; of a file, for ever.

        Raises:
            OutriderError: as `outrider_edge.video.camera.Camera.next`.
        """
        self._state = State()  # what it usually shows is learnt anew: it may look elsewhere now
        ended: EndedBy = "stopped"
        before = self._teller.figures
        base = before.read, before.paced, before.dropped
        look = self._every_frame if self._settings.gate == "none" else self._gated
        try:
            async with camera(self._teller.source, self._plan, stall_s=self._settings.stall_s) as opened:
                try:
                    while True:
                        frame = await opened.next()
                        self._teller.figures.up()
                        self._teller.figures.looked += 1
                        self._count(opened, base)
                        await look(opened, frame)
                finally:
                    self._count(opened, base)
        except EndOfVideo:
            await self._end("still")
            self._teller.figures.state = "ended"
            log.info("source.ended", extra={"source": self._teller.source})
        except Exception:
            ended = "lost"
            raise
        finally:
            await self._end(ended)
        await asyncio.Event().wait()

    def _count(self, opened: Camera, base: tuple[int, int, int]) -> None:
        figures = self._teller.figures
        figures.read, figures.paced, figures.dropped = (
            before + now for before, now in zip(base, opened.counts, strict=True)
        )

    async def _every_frame(self, camera: Camera, _: Frame) -> None:
        await self._teller.one(await camera.picture(), "frame")

    async def _gated(self, camera: Camera, frame: Frame) -> None:
        self._state, seen = after(self._state, frame.grey, frame.at_s, self._settings.motion)
        if seen.began is not None:
            self._event = self._teller.begin(seen.began, share=seen.share)
            camera.keep()
        elif self._event is not None and self._event.looked(seen.share) and not self._event.asked:
            camera.keep()
        if self._event is not None and not self._event.asked and self._is_time(frame, seen):
            await self._event.ask(await camera.picture())
        if seen.ended is not None:
            await self._end(seen.ended)

    def _is_time(self, frame: Frame, seen: Seen) -> bool:
        began_s = self._state.began_s
        return began_s is None or seen.ended is not None or frame.at_s - began_s >= self._settings.motion.look_s

    async def _end(self, by: EndedBy) -> None:
        """Ends the event, if there is one; one that the model was never asked about ends without an answer."""
        if self._event is not None:
            event, self._event = self._event, None
            await self._teller.in_background(event.end(by))
