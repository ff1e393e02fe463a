"""Puts and settles without end in the outbox folder, of the size, that it is given; prints a line for each that was reported done."""

import asyncio
import sys
from pathlib import Path

from edge_entries import make_answer, make_entry

from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.outbox.outcomes import Answered
from outrider_wire.limits import INLINE_BYTES


async def _ask(outbox: Outbox, number: int, worker: int) -> None:
    id_ = f"{worker:08x}-{number:08x}-0000"
    large = b"%08d" % (number % 7) * (INLINE_BYTES // 8 + 1)
    outbox.arrived("colours")
    await outbox.put(make_entry(b"pixels", large, id_=id_))
    sys.stdout.write(f"put {id_}\n")
    if number % 3 == 0:
        await outbox.settle(id_, Answered(make_answer(id_)))
        sys.stdout.write(f"settled {id_}\n")
    sys.stdout.flush()
    outbox.arrived("colours")
    outbox.count_local("colours", "edge")


async def _main() -> None:
    outbox = Outbox(folder=Path(sys.argv[1]), flush_s=0.02, bounds=DEFAULT_BOUNDS._replace(max_count=int(sys.argv[2])))
    await outbox.start()

    async def work(worker: int) -> None:
        for number in range(1_000_000):
            await _ask(outbox, number, worker)

    await asyncio.gather(*map(work, range(4)))


asyncio.run(_main())
