"""A power cut after every file-system operation of an enqueue, an answer and a slot switch: what was promised is still there.

The real code runs in a process of its own, on a file system that keeps a journal (FUSE); for every cut it is then started on
what a disk may have kept. The negative control: with any one sync that matters ignored, the same sweep must fail.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from absent import skip_without

from outrider.sim.power.disk import Op, cuts
from outrider.sim.power.lives import LIVES
from outrider.sim.power.mounted import Mounted, missing
from outrider.sim.power.sweep import Recorded, recorded, sweep
from outrider_engine.cache_folder import CacheFolder
from outrider_wire.errors import OperatorSetupError

LUCKY_EVERY = 16
"""Disks that kept everything differ after every write: by default one in so many is looked at."""
SPARSE = {"obey": 24, "recoil": 24}
"""Of a life with hundreds of different disks, by default one in so many is looked at; a slow test looks at all."""
MATTERS = [
    ("enqueue", "fsync", r"/outbox/payload/\..*"),
    ("enqueue", "fsyncdir", r"/outbox/payload"),
    ("enqueue", "fsync", r"/outbox/outbox\.db-wal"),
    ("enqueue", "fsyncdir", r"/outbox"),
    ("enqueue", "fsyncdir", r"/"),
    ("answer", "fsync", r"/cloud\.db-wal"),
    ("answer", "fsync", r"/blobs/../\..*"),
    ("answer", "fsyncdir", r"/blobs/.."),
    ("answer", "fsyncdir", r"/blobs"),
    ("switch", "fsync", r".*/incoming/.*/model\.int8\.onnx"),
    ("switch", "fsync", r".*/incoming/.*manifest\.json.*"),
    ("switch", "fsyncdir", r".*/incoming/[0-9a-f]{64}"),
    ("switch", "fsyncdir", r"/slots"),
    ("obey", "fsync", r"/slots/easy-vqa/incoming/.*/model\.int8\.onnx"),
    ("obey", "fsyncdir", r"/slots"),
    pytest.param(*("recoil", "fsync", r"/slots/easy-vqa-night/incoming/.*/golden\.msgpack"), marks=pytest.mark.slow),
    ("believe", "fsync", r"/trust/\.timestamp\.json\..*"),
    ("believe", "fsync", r"/trust/\.highest\..*"),
    ("believe", "fsyncdir", r"/trust"),
]
"""(life, kind of sync, path): wherever one of these is left out, something that was promised is lost."""


@pytest.fixture
def fuse() -> None:
    """Skips, loudly, where no file system of our own can be mounted."""
    if missing():
        skip_without("FUSE", missing())


@pytest.fixture(scope="module")
def runs() -> "Iterator[Runs]":
    """One recorded run of each life, made when it is first asked for."""
    with ExitStack() as stack:
        yield Runs(stack)


class Runs:
    def __init__(self, stack: ExitStack) -> None:
        self.of = cache(lambda name: stack.enter_context(recorded(name)))


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "recoil" else []) for name in LIVES]
)
def test_what_was_promised_before_the_cut_is_there_after_it(name: str, runs: Runs) -> None:
    run: Recorded = runs.of(name)
    assert len(run.syncs) > 15 and any(op.kind == "said" for op in run.journal)
    every = SPARSE.get(name, 1)
    seen, faults = sweep(run, models=("strict", "journalled"), every=every)
    assert not faults
    assert seen * every > 50
    assert not sweep(run, models=("lucky",), every=LUCKY_EVERY * every)[1]


@pytest.mark.usefixtures("fuse")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SPARSE)
def test_every_cut_of_an_order_leaves_both_tasks_on_one_side_of_it(name: str, runs: Runs) -> None:
    seen, faults = sweep(runs.of(name), models=("strict", "journalled"))
    assert not faults
    assert seen > 300


@pytest.mark.usefixtures("fuse")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LIVES)
def test_a_kill_after_any_operation_breaks_no_promise(name: str, runs: Runs) -> None:
    assert not sweep(runs.of(name), models=("lucky",))[1]


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize(("name", "kind", "path"), MATTERS)
def test_with_one_sync_left_out_a_promise_is_broken(name: str, kind: str, path: str, runs: Runs) -> None:
    run: Recorded = runs.of(name)
    places = [n for n in run.syncs if run.journal[n].kind == kind and re.fullmatch(path, run.journal[n].path)]
    assert places, "the code does not sync that at all"
    assert any(sweep(run, models=("strict",), deaf=place, first_only=True)[1] for place in places)


@pytest.mark.usefixtures("fuse")
def test_the_disk_can_be_full_read_only_and_well_again(tmp_path: Path) -> None:
    with Mounted(folder=tmp_path / "disk") as disk:
        file = disk.folder / "file"
        file.write_bytes(b"kept")
        disk.mood("full")
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x")
        disk.mood("readonly")
        with pytest.raises(OSError, match="Read-only"):
            file.unlink()
        assert file.read_bytes() == b"kept"
        disk.mood("ok")
        file.rename(disk.folder / "moved")
    assert [op.kind for op in disk.journal] == ["create", "write", "rename"]


@pytest.mark.usefixtures("fuse")
def test_a_device_may_keep_code_on_the_disk_and_sees_who_else_may(tmp_path: Path) -> None:
    with Mounted(folder=tmp_path / "disk") as disk:
        cache = disk.folder / "cache"
        CacheFolder(cache)
        cache.chmod(0o777)
        with pytest.raises(OperatorSetupError, match="mode 0777"):
            CacheFolder(cache)


WRITE = (Op("create", 1, "new", 3), Op("write", inode=3, data=b"NEW"))
RENAME = (Op("rename", 1, "new", at=1, data=b"pointer"),)
OLD = (Op("create", 1, "pointer", 2), Op("write", inode=2, data=b"OLD"), Op("fsync", inode=2), Op("fsyncdir", inode=1))


@pytest.mark.parametrize(
    ("syncs", "kept"),
    [
        ((), b"OLD"),
        (("file",), b"OLD"),
        (("folder",), b""),
        (("file", "folder"), b"NEW"),
    ],
)
def test_a_replaced_file_is_the_new_one_only_when_it_and_its_folder_were_synced(
    syncs: tuple[str, ...], kept: bytes
) -> None:
    journal = [*OLD, *WRITE]
    journal += [Op("fsync", inode=3)] if "file" in syncs else []
    journal += RENAME
    journal += [Op("fsyncdir", inode=1)] if "folder" in syncs else []
    *_, last = cuts(journal, "strict")
    assert last.image["/pointer"] == kept


def test_a_file_moved_to_another_folder_is_in_one_of_them_after_every_cut() -> None:
    journal = [
        Op("mkdir", 1, "from", 2),
        Op("mkdir", 1, "to", 3),
        Op("create", 2, "file", 4),
        Op("write", inode=4, data=b"x"),
        *(Op("fsync", inode=4), Op("fsyncdir", inode=2), Op("fsyncdir", inode=3), Op("fsyncdir", inode=1)),
        Op("rename", 2, "file", at=3, data=b"file"),
        Op("fsyncdir", inode=3),
    ]
    found = [cut.image for cut in cuts(journal, "strict") if cut.after >= 8]
    assert [sorted(path for path in image if path.endswith("file")) for image in found] == [
        ["/from/file"],
        ["/to/file"],
    ]


def test_promises_stand_where_they_were_made() -> None:
    journal = [*OLD, Op("said", data=b"accepted 1"), *WRITE, Op("said", data=b"accepted 2")]
    said = [(cut.after, cut.said) for cut in cuts(journal, "lucky")]
    assert (5, ["accepted 1"]) in said and said[-1] == (8, ["accepted 1", "accepted 2"])
