"""A cloud process for the tests that kill one: serves the configuration named on the command line with a model of 0.7 s a batch."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from outrider_cloud.app import serve
from outrider_cloud.config import load_cloud_config
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest


class SlowModel:
    """Sure of the label whose number the question names, unless it sees only a first form."""

    name = "slow@1"

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        await asyncio.sleep(0.7)
        return [self._reply(request) for request in batch]

    async def close(self) -> None:
        pass

    def _reply(self, request: LargeRequest) -> LargeReply:
        said, labels = int(request.parts["question"].decode()), range(len(request.labels))
        if request.parts["image"] == b"first form":
            return LargeReply(probabilities=[1 / len(labels) for _ in labels])
        return LargeReply(probabilities=[1.0 if k == said else 0.0 for k in labels])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(load_cloud_config(Path(sys.argv[1])), load=lambda _settings, _task: SlowModel()))
