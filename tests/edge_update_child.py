"""A device that dies while it tests a release: started with a folder, a bundle and the machine's boot; says when the self-test has begun.

Run as ``python -m edge_update_child FOLDER BUNDLE BOOT``; it never comes to an end by itself.
"""

import asyncio
import sys
import time
from pathlib import Path

from edge_releases import Device, ShelfSource

from outrider_edge.updates.record import Record
from outrider_edge.updates.waiting import Hold, Surroundings, WhenTerms, hold
from outrider_engine.selftest import SelfTestReport

AT_ONCE = WhenTerms(pauses_s=(0.0, 0.0))


def held(record: Record) -> Hold | None:
    """As the agent asks, but that no pause is made between two trials."""
    return hold(record, Surroundings(now_ms=0), AT_ONCE)


async def _main(folder: Path, bundle: Path, machine: str) -> None:
    device = Device(folder, ShelfSource(bundle))
    device.run(machine=machine, hold=held, selftest=_endless).assign(device.wish(bundle))
    await asyncio.Event().wait()


def _endless(_: Path) -> SelfTestReport:
    print("testing", flush=True)
    time.sleep(600)
    return SelfTestReport(ok=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
