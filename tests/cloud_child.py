"""A cloud process for the tests that kill one: serves the configuration named on the command line with a model of 0.7 s a batch, or
as many as a second argument says."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from outrider_cloud.app import serve
from outrider_cloud.config import load_cloud_config
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest

PAUSE_S = float(sys.argv[2]) if len(sys.argv) > 2 else 0.7


class SlowModel:
    """Sure of the label whose number the question names, unless it sees only a first form."""

    name = "slow@1"

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        await asyncio.sleep(PAUSE_S)
        return [self._reply(request) for request in batch]

    async def close(self) -> None:
        pass

    def _reply(self, request: LargeRequest) -> LargeReply:
        said, labels = int(request.parts["question"].decode()), range(len(request.labels))
        if request.parts["image"] == b"first form":
            return LargeReply(probabilities=[1 / len(labels) for _ in labels])
        return LargeReply(probabilities=[1.0 if k == said else 0.0 for k in labels])


class PortFormatter(logging.Formatter):
    """Says where the API is, for a test to find."""

    def format(self, record: logging.LogRecord) -> str:
        said = super().format(record)
        port = str(getattr(record, "api", "")).rpartition(":")[2]
        return f"{said} outrider.test.port={port}" if port else said


if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(PortFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    asyncio.run(serve(load_cloud_config(Path(sys.argv[1])), load=lambda _settings, _task: SlowModel()))
