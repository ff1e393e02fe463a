"""The table of what runs while the power may go: ``python -m outrider.sim.power.lives NAME FOLDER WORK`` lives one of them."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.sim.power import cloud_lives, edge_lives, trust_lives, update_lives
from outrider.sim.power.promises import Broken, Say, sayer


@dataclass(frozen=True, kw_only=True)
class Life:
    """One of them. ``work`` is a folder on a disk that nothing happens to."""

    what: str
    live: Callable[[Path, Say, Path], Coroutine[Any, Any, None]]
    check: Callable[[Path, list[str], Path], list[Broken]]
    """What of the promises a disk does not hold."""
    prepare: Callable[[Path], None] = lambda _work: None


LIVES: dict[str, Life] = {
    "enqueue": Life(
        what="a device accepts escalations, and has some of them answered",
        live=lambda folder, say, _: edge_lives.enqueue(folder, say),
        check=lambda folder, said, _: edge_lives.check_outbox(folder, said),
    ),
    "answer": Life(
        what="the cloud stores escalations, and answers them",
        live=lambda folder, say, _: cloud_lives.answer(folder, say),
        check=lambda folder, said, _: cloud_lives.check_store(folder, said),
    ),
    "switch": Life(
        what="a device installs its first model, then an update",
        live=edge_lives.switch,
        check=edge_lives.check_slots,
        prepare=edge_lives.prepare_releases,
    ),
    "obey": Life(
        what="a device carries out a signed order for two tasks",
        live=update_lives.obey,
        check=update_lives.check_together,
        prepare=update_lives.prepare_site,
    ),
    "recoil": Life(
        what="a new model fails on live input, and both tasks of the order go back",
        live=update_lives.recoil,
        check=update_lives.check_together,
        prepare=update_lives.prepare_site,
    ),
    "believe": Life(
        what="a device believes signed metadata, then newer metadata",
        live=trust_lives.believe,
        check=trust_lives.check_belief,
        prepare=trust_lives.prepare_repository,
    ),
}


def main() -> None:
    """Lives it, on the disk that the folder is."""
    name, folder, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    asyncio.run(LIVES[name].live(folder, sayer(folder), work))


if __name__ == "__main__":
    main()
