"""Puts and settles audits without end in the outbox folder that it is given; prints a line for each that was reported settled."""

import asyncio
import sys
from pathlib import Path

from edge_entries import make_answer, make_entry
from msgspec.structs import replace

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Answered
from outrider_wire.monitor import Monitor

CERTIFICATE = "0123456789abcdef"


async def _main() -> None:
    outbox = Outbox(folder=Path(sys.argv[1]), keep_settled=1_000_000, flush_s=0.02)
    await outbox.start()
    outbox.watches.watch("colours", CERTIFICATE, Monitor(risk=0.05, alpha=1e-3))

    async def work(worker: int) -> None:
        for number in range(1_000_000):
            id_ = f"{worker:08x}-{number:08x}-0000"
            entry = make_entry(audit=True, id_=id_)
            outbox.arrived("colours")
            await outbox.put(replace(entry, report=replace(entry.report, certificate=CERTIFICATE)))
            await outbox.settle(id_, Answered(make_answer(id_, label="red" if number % 9 else "blue")))
            print(f"settled {id_}", flush=True)

    await asyncio.gather(*map(work, range(4)))


asyncio.run(_main())
