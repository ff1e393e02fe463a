"""Labelled data in the store, and the ledger of certification rows."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from factory import make_task, png
from outrider_cloud.config import load_cloud_config
from outrider_cloud.learning import ledger
from outrider_cloud.learning.library import Library
from outrider_cloud.learning.opening import OpenTask, opened
from outrider_cloud.store.schema import certifications
from outrider_export.certify import data_digest
from outrider_export.data import Example, Table
from outrider_export.task_text import task_to_toml
from outrider_wire.certificate import DEFAULT_COVERAGES, reused_delta
from outrider_wire.errors import CallerInputError, CallerUnknownError, RuleRefusalError
from outrider_wire.manifest import Certificate
from outrider_wire.roles import DEFAULT_SHARES, ROLES, role_of

KEY = "a key"


@pytest.fixture
def config(tmp_path: Path, store_toml: str) -> Path:
    (tmp_path / "roles.key").write_text(KEY)
    for name in ("colours", "hues"):
        (tmp_path / f"{name}.toml").write_text(task_to_toml(make_task(name)))
    tasks = "".join(f'[[tasks]]\nfile = "{name}.toml"\nlarge = "zero:uniform"\n' for name in ("colours", "hues"))
    (tmp_path / "cloud.toml").write_text(f'data_dir = "cloud"\n[roles]\nkey_file = "roles.key"\n{store_toml}{tasks}')
    return tmp_path / "cloud.toml"


@pytest.fixture
def work(config: Path) -> Iterator[OpenTask]:
    with opened(load_cloud_config(config), "colours") as opened_task:
        yield opened_task


def noise(seed: int, side: int) -> bytes:
    """A PNG that does not compress."""
    import random

    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)).save(out, "PNG")
    return out.getvalue()


def table(n: int = 40, *, label: int = 0) -> Table:
    return Table.from_examples(
        Example({"image": png((k, 0, 0)), "question": f"question {k % 3}?"}, label, f"image-{k // 2}") for k in range(n)
    )


def add(library: Library, rows: Table):  # type: ignore[no-untyped-def]  # what Library.add gives
    return library.add(rows, key=KEY, shares=DEFAULT_SHARES, now_ms=1)


def test_an_import_gives_every_group_the_role_of_its_keyed_hash_and_can_be_repeated(work: OpenTask) -> None:
    rows = table()
    first, second = add(work.library, rows), add(work.library, rows)
    expected = [role_of(group, key=KEY, shares=DEFAULT_SHARES) for group in rows.groups]
    assert first.new == {role: expected.count(role) for role in ROLES}
    assert sum(first.known.values()) == 0
    assert (second.new, second.known) == (dict.fromkeys(ROLES, 0), first.new)


def test_what_was_imported_comes_back_as_it_was(work: OpenTask) -> None:
    rows = Table.from_examples(
        [Example({"image": noise(k, 200), "question": "which colour — 色?"}, k % 3, f"g{k}") for k in range(12)]
    )
    assert min(len(value) for value in rows.values["image"]) > 64 * 1024, "large parts live in the blob store"
    add(work.library, rows)
    found = {}
    for role in ROLES:
        try:
            back = work.library.labelled(role)
        except RuleRefusalError:
            continue
        found |= {back.groups[row]: (back.parts(row), int(back.labels[row])) for row in range(len(back))}
    assert found == {rows.groups[row]: (rows.parts(row), int(rows.labels[row])) for row in range(len(rows))}


def test_two_tasks_may_import_the_same_pictures(config: Path, work: OpenTask) -> None:
    add(work.library, table())
    with opened(load_cloud_config(config), "hues") as other:
        assert sum(add(other.library, table()).new.values()) == 40


@pytest.mark.parametrize(
    ("image", "reason"), [(b"no picture", "not_an_image"), (noise(0, 300), "part_too_large")], ids=["damaged", "large"]
)
def test_a_row_that_a_device_would_refuse_is_refused_by_name_and_nothing_is_added(
    work: OpenTask, image: bytes, reason: str
) -> None:
    rows = [
        Example({"image": png(), "question": "?"}, 0, "good"),
        Example({"image": image, "question": "?"}, 0, "bad-one"),
    ]
    with pytest.raises(CallerInputError, match=r"^bad-one: ") as caught:
        add(work.library, Table.from_examples(rows))
    assert caught.value.reason == reason
    with pytest.raises(RuleRefusalError, match="no examples"):
        work.library.load(role_of("good", key=KEY, shares=DEFAULT_SHARES))


def test_an_unknown_task_is_refused_with_those_there_are(config: Path) -> None:
    with pytest.raises(CallerUnknownError, match="choose colours, hues"), opened(load_cloud_config(config), "shapes"):
        pass


def test_the_command_imports_a_file_while_the_store_is_open_elsewhere(config: Path, work: OpenTask) -> None:
    folder = config.parent / "rows"
    folder.mkdir()
    lines = []
    for k in range(30):
        (folder / f"{k}.png").write_bytes(png((k, k, 0)))
        lines.append(json.dumps({"parts": {"image": f"{k}.png", "question": "?"}, "label": "red"}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    for new in (30, 0):
        command = ["data", "import", str(folder / "rows.jsonl"), "--task", "colours", "--config", str(config), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "outrider", *command], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (sum(said["new"].values()), sum(said["known"].values())) == (new, 30 - new)
    assert len(work.library.certifiable_groups()) == said["known"]["certification"]


GROUPS = [f"g{k}" for k in range(400)]


def take(work: OpenTask, groups: list[str]) -> ledger.Taken:
    def change(connection: sa.Connection) -> ledger.Taken:
        return ledger.take(
            connection, task="colours", groups=groups, risk=0.05, delta=0.05, coverages=DEFAULT_COVERAGES, now_ms=1
        )

    return work.library.store.submit(change).result()


def test_fresh_rows_pay_delta_and_the_kth_use_pays_its_share(work: OpenTask) -> None:
    found = [take(work, GROUPS) for _ in range(3)]
    assert [taken.drawn.use for taken in found] == [1, 2, 3]
    assert [taken.drawn.delta for taken in found] == [0.05, reused_delta(0.05, 2), reused_delta(0.05, 3)]


def test_fresh_rows_are_taken_alone_where_they_are_enough(work: OpenTask) -> None:
    take(work, GROUPS[:200])
    taken = take(work, GROUPS)
    assert (taken.drawn.use, sorted(taken.drawn.groups)) == (1, sorted(GROUPS[200:]))


def test_a_few_fresh_rows_among_used_ones_do_not_make_the_use_a_first_one(work: OpenTask) -> None:
    take(work, GROUPS[:390])
    taken = take(work, GROUPS)
    assert (taken.drawn.use, taken.drawn.fresh, len(taken.drawn.groups)) == (2, 10, 400)


def test_rows_that_could_certify_nothing_are_not_used_up(work: OpenTask) -> None:
    taken = take(work, GROUPS[:50])
    assert (taken.number, taken.drawn.enough) == (0, False)
    assert "50 certification rows cannot certify" in taken.drawn.shortage(0.05)
    assert work.library.store.run(lambda connection: ledger.uses(connection, "colours")) == {}


def test_rows_enough_once_and_too_few_for_what_a_second_use_pays_are_not_used_again(work: OpenTask) -> None:
    assert take(work, GROUPS[:80]).drawn.enough
    again = take(work, GROUPS[:80])
    assert (again.number, again.drawn.enough, again.drawn.delta) == (0, False, reused_delta(0.05, 2))
    assert "use 2" in again.drawn.shortage(0.05)


def test_another_tasks_uses_do_not_count(work: OpenTask) -> None:
    take(work, GROUPS)
    assert work.library.store.run(lambda connection: ledger.uses(connection, "hues")) == {}


def test_rows_of_a_certificate_made_elsewhere_are_recognised_once(work: OpenTask) -> None:
    certificate = Certificate(
        method="fixed-sequence", risk=0.05, delta=0.05, n=400, groups=400, accepted=300, errors=3, coverage=0.75,
        risk_bound=0.03, label_source="ground_truth", data_digest=data_digest(GROUPS), provider="CPUExecutionProvider",
        precision="int8", claims={},
    )  # fmt: skip

    def recognise(groups: list[str]) -> bool:
        def change(connection: sa.Connection) -> bool:
            return ledger.recognise(
                connection, task="colours", bundle="b", certificate=certificate, groups=groups, now_ms=1
            )

        return work.library.store.submit(change).result()

    assert not recognise(GROUPS[:399])
    assert [recognise(GROUPS), recognise(GROUPS)] == [True, False]
    taken = take(work, GROUPS)
    assert taken.drawn.use == 2
    count = sa.select(sa.func.count()).select_from(certifications)
    assert work.library.store.run(lambda connection: connection.execute(count).scalar_one()) == 2
