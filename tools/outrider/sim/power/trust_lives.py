"""What a device does with signed metadata while the power may go: it believes one state of a repository, then a newer one."""

import asyncio
import hashlib
import shutil
from pathlib import Path

from outrider.ota import ceremony, founding, publishing
from outrider.ota.workplace import Workplace
from outrider.sim.power.promises import Broken, Say, told
from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import FILE, ReleaseFacts
from outrider_trust.sources import DirectorySource
from outrider_wire.errors import OutriderError, TrustRefusedError

TASK = "easy-vqa"
_COUNTER = 7


def prepare_repository(work: Path) -> None:
    """One repository as it was, and as it is after a new root, a new release and a new snapshot."""
    secret = work / "passphrase"
    secret.write_text("only for this run")
    place = Workplace(work / "new", lambda _: b"only for this run")
    wish = founding.wished([TASK], "2of3", [], "", automatic=False, canary=[])
    founding.found_here(place, wish, secret)
    shutil.copytree(work / "new", work / "old")
    ceremony.renewal(place, ["root"])
    place.sign("root", [f"{FILE}:{place.keys / f'root-{number}.pem'}" for number in (1, 2)])
    data = b'{"a": "manifest"}'
    facts = ReleaseFacts(task=TASK, version="2", counter=_COUNTER)
    publishing.sign_release(place, data, _digest(data), facts, [f"{FILE}:{place.keys / f'{TASK}.pem'}"])
    place.publish()


async def believe(folder: Path, say: Say, work: Path) -> None:
    """A device's first look, a later one, and a release that it commits to."""
    await asyncio.to_thread(_believe, folder, say, work)


def _believe(folder: Path, say: Say, work: Path) -> None:
    device = _device(folder, work)
    say("believed", str(device.refresh(DirectorySource(work / "old")).timestamp))
    device = _device(folder, work)
    say("believed", str(device.refresh(DirectorySource(work / "new")).timestamp))
    if device.release(TASK, _digest(b'{"a": "manifest"}'), DirectorySource(work / "new")) is None:
        raise AssertionError("the release is not signed")
    device.raise_counter(TASK, _COUNTER)
    say("committed", str(_COUNTER))


def check_belief(folder: Path, said: list[str], work: Path) -> list[Broken]:
    """What was seen is not forgotten: an old repository is refused; and whatever the cut left, the new one is believed."""
    believed = [int(version) for (version,) in told(said, "believed")]
    broken: list[Broken] = []
    try:
        if told(said, "committed") and _device(folder, work).counter(TASK) != _COUNTER:
            broken.append(Broken("the committed release counter was forgotten"))
        if len(believed) > 1 and _takes_old(folder, work):
            broken.append(Broken(f"timestamp {believed[-1]} was believed, and an older repository is after the cut"))
        _device(folder, work).refresh(DirectorySource(work / "new"))
    except OutriderError as error:
        broken.append(Broken(f"nothing new is believed after the cut: {error}"))
    return broken


def _takes_old(folder: Path, work: Path) -> bool:
    try:
        _device(folder, work).refresh(DirectorySource(work / "old"))
    except TrustRefusedError as error:
        return error.reason != "metadata_rolled_back"
    return True


def _device(folder: Path, work: Path) -> TrustedMetadata:
    return TrustedMetadata(folder / "trust", shipped_root=(work / "old" / "metadata" / "1.root.json").read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
