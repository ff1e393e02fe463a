"""``outrider ota init|keys|publish|verify|show|diff|history|gc`` in a folder, as a release engineer uses them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from factory import make_bundle, make_task
from outrider.commands.ota import app
from outrider.ota import publishing
from outrider.ota.checklist import CHECKLIST
from outrider.ota.passphrases import VARIABLE
from outrider.ota.publishing import next_facts, sign_release
from outrider.ota.workplace import Workplace
from outrider_wire.errors import OutriderError, RuleRefusalError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, manifest_digest
from outrider_wire.rollout import Group, PlannedRelease, RolloutPlan

SECRET = "correct horse battery staple"
Ota = Callable[..., "Came"]


class Came:
    """What a command came to."""

    def __init__(self, result: Any) -> None:
        error = result.exception
        self.error = error if isinstance(error, OutriderError) else None
        self.code = self.error.exit_code if self.error else result.exit_code
        self.out = result.stdout
        if error is not None and not isinstance(error, (OutriderError, SystemExit)):
            raise error

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def ota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ota:
    """Runs ``outrider ota …`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, SECRET)
    return lambda *args: Came(CliRunner().invoke(app, [str(each) for each in args]))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", make_task(), version="1")


TASK = make_task().name
KEY = f"file:outrider-releases/keys/{TASK}.pem"


def test_the_whole_way_on_one_machine(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    made = ota("init", "--task", TASK, "--json")
    assert made.code == 0 and made.json["waiting"] == []
    assert [Path(name).name for name in made.json["move_offline"]] == [
        "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem", f"{TASK}.pem",
    ]  # fmt: skip
    published = ota("publish", bundle, "--key", KEY, "--offline", "--yes", "--json")
    assert published.code == 0 and published.json["counter"] == 1
    digest = published.json["release"]
    verified = ota("verify", "--json")
    assert verified.code == 0 and verified.json["verified"]
    assert [(each["kind"], each["name"], each["fault"]) for each in verified.json["found"]] == [("release", digest, "")]
    assert ota("show", digest[:8], "--json").json["counter"] == 1
    second = make_bundle(tmp_path / "second", make_task(), version="2", seed=3)
    again = ota("publish", second, "--key", KEY, "--offline", "--yes", "--arch", "aarch64", "--json")
    assert again.json["counter"] == 2
    differing = {each["what"] for each in ota("diff", "1", "2", "--json").json["differences"]}
    assert {"version"} <= differing and any(each.startswith("file ") for each in differing)
    assert ota("diff", "1", bundle, "--json").json["differences"] == []
    events = ota("history", "--json").json["events"]
    assert [len(each["added"]) for each in events] == [1, 1, 0]
    assert ota("show", "2", "--json").json["requires"] == {"arch": ["aarch64"]}


def test_a_dry_run_changes_nothing(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    assert ota("init", "--task", TASK, "--dry-run", "--json").json["dry_run"]
    assert not (tmp_path / "outrider-releases").exists()
    ota("init", "--task", TASK)
    before = tree(tmp_path / "outrider-releases")
    assert ota("publish", bundle, "--key", KEY, "--offline", "--dry-run", "--json").json["counter"] == 1
    assert ota("keys", "rotate", TASK, "--key", KEY, "--dry-run", "--json").json["to_sign"] == ["targets", TASK]
    assert ota("keys", "renew", "root", "--dry-run", "--json").json["to_sign"] == ["root"]
    assert ota("gc", "--no-devices", "--dry-run", "--json").json["dry_run"]
    assert tree(tmp_path / "outrider-releases") == before


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_keys_are_encrypted_and_a_wrong_passphrase_opens_none(
    ota: Ota, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ota("init", "--task", TASK)
    keys = tmp_path / "outrider-releases/keys"
    for path in keys.glob("*.pem"):
        online = path.stem in ("snapshot", "timestamp", "control")
        assert (b"ENCRYPTED" in path.read_bytes()) is not online
        assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(VARIABLE, "guessed")
    came = ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    assert came.code == 2 and came.error and came.error.reason == "key_locked"
    monkeypatch.delenv(VARIABLE)
    came = ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    assert came.code == 2 and came.error and came.error.reason == "no_passphrase"
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    came = ota("publish", bundle, "--key", KEY, "--offline", "--yes", "--passphrase-file", secret, "--json")
    assert came.code == 0


def test_the_ceremony_on_three_machines(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    """Only public files are carried; the checklist's own commands, in its order."""
    stick = tmp_path / "stick"
    stick.mkdir()
    for person in ("ada", "bob", "cyd"):
        came = (
            ota("keys", "new", tmp_path / person / f"root-{person}.pem", "--json")
            if _folder(tmp_path / person)
            else None
        )
        assert came and came.code == 0
        shutil.copy(came.json["public"], stick)
    shared = [word for person in ("ada", "bob", "cyd") for word in ("--root-key", stick / f"root-{person}.pub.json")]
    made = ota("init", "--task", TASK, "--signers", "2of3", *shared, "--json")
    assert made.code == 0 and made.json["waiting"][0] == "root"
    proposed = tmp_path / "outrider-releases/proposed/root.json"
    carried = Path(shutil.copy(proposed, stick))
    seen = ota("keys", "sign", carried, "--dry-run", "--json").json
    assert seen["signatures"] == 0 and any(line.startswith("  root: 2 of") for line in seen["about"])
    stranger = ota("keys", "new", tmp_path / "eve.pem", "--json")
    assert ota("keys", "sign", carried, "--key", f"file:{stranger.json['key']}").code == 3
    for number, person in enumerate(("ada", "cyd"), start=1):
        signed = ota("keys", "sign", carried, "--key", f"file:{tmp_path / person / f'root-{person}.pem'}", "--json")
        assert signed.json["signatures"] == number
    shutil.copy(carried, proposed)
    ota("keys", "publish")
    listed = ota("keys", "ls", "--json").json
    assert listed["waiting"] == {}
    assert ota("publish", bundle, "--key", KEY, "--offline", "--yes").code == 0
    assert ota("verify").code == 0
    for command in ("keys new", "keys sign", "keys publish", "keys ls", "verify"):
        assert f"outrider ota {command}" in CHECKLIST


def _folder(path: Path) -> bool:
    path.mkdir()
    return True


def test_with_one_of_two_signatures_nothing_is_published(ota: Ota, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    ota("keys", "renew", "root")
    one = ota("keys", "sign", "root", "--key", "file:outrider-releases/keys/root-1.pem", "--json").json
    assert one["lacking"] == 1 and one["published"] == []
    same = ota("keys", "sign", "root", "--key", "file:outrider-releases/keys/root-1.pem", "--json").json
    assert same["lacking"] == 1, "a key that signs twice counts once"
    two = ota("keys", "sign", "root", "--key", "file:outrider-releases/keys/root-3.pem", "--json").json
    assert two["published"] == ["root", "snapshot", "timestamp"]
    assert (tmp_path / "outrider-releases/metadata/2.root.json").exists()


def test_a_key_of_another_role_is_refused(ota: Ota) -> None:
    ota("init", "--task", TASK)
    ota("keys", "renew", "root")
    came = ota("keys", "sign", "root", "--key", "file:outrider-releases/keys/targets.pem")
    assert came.code == 3 and came.error and came.error.reason == "foreign_key"


def test_a_task_key_is_rotated_and_the_old_one_signs_no_more(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    new = ota("keys", "new", tmp_path / "new.pem", "--json").json
    proposed = ota("keys", "rotate", TASK, "--key", new["public"], "--yes", "--json").json
    assert proposed["to_sign"] == ["targets", TASK]
    states = {row["state"] for row in ota("keys", "ls", "--json").json["keys"] if row["role"] == TASK}
    assert states == {"to add", "to remove"}
    assert ota("keys", "sign", TASK, "--key", KEY).code == 3
    ota("keys", "sign", TASK, "--key", f"file:{new['key']}")
    came = ota("keys", "sign", "targets", "--key", "file:outrider-releases/keys/targets.pem", "--json").json
    assert came["published"] == ["targets", TASK, "snapshot", "timestamp"]
    assert ota("verify").code == 0
    second = make_bundle(tmp_path / "second", make_task(), version="2", seed=3)
    assert ota("publish", second, "--key", KEY, "--offline", "--yes").code == 3
    assert ota("publish", second, "--key", f"file:{new['key']}", "--offline", "--yes").code == 0


def test_a_root_key_is_revoked_by_the_others(ota: Ota) -> None:
    ota("init", "--task", TASK)
    lost = next(row["keyid"] for row in ota("keys", "ls", "--json").json["keys"] if row["where"] == "file:root-2.pem")
    assert ota("keys", "revoke", "root", lost[:10], "--yes", "--json").json["to_sign"] == ["root"]
    for number in (1, 3):
        ota("keys", "sign", "root", "--key", f"file:outrider-releases/keys/root-{number}.pem")
    rows = [row for row in ota("keys", "ls", "--json").json["keys"] if row["role"] == "root"]
    assert len(rows) == 2 and lost not in {row["keyid"] for row in rows}
    again = ota("keys", "revoke", "root", rows[0]["keyid"], "--yes")
    assert again.code == 2, "two of one cannot be met"
    last = ota("keys", "revoke", "targets", "", "--yes")
    assert last.code == 3 and last.error and last.error.reason == "last_key"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--signers", "3of2"), "invalid_signers"),
        (("--signers", "two"), "invalid_signers"),
        (("--task", "root"), "invalid_task"),
        (("--task", "../x"), "invalid_task"),
        (("--task", "x-auto"), "invalid_task"),
        (("--root-key", "absent.pub.json", "--signers", "1of1"), "key_unreadable"),
        (("--root-key", "kms:x", "--signers", "1of1"), "key_uri"),
    ],
)
def test_what_cannot_be_founded_is_said(words: tuple[str, ...], reason: str, ota: Ota) -> None:
    came = ota("init", "--task", TASK, *words)
    assert came.code == 2 and came.error and came.error.reason == reason


def test_a_repository_is_not_made_over_another(ota: Ota) -> None:
    ota("init", "--task", TASK)
    came = ota("init", "--task", TASK)
    assert came.code == 2 and came.error and came.error.reason == "repository_exists"


def test_verify_refuses_what_a_device_would(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    stick = tmp_path / "stick"
    shutil.copytree(tmp_path / "outrider-releases", stick)
    assert ota("verify", stick).code == 0
    (manifest,) = (stick / "targets" / TASK).glob("*.json")
    manifest.write_bytes(manifest.read_bytes() + b" ")
    came = ota("verify", stick, "--json")
    assert came.code == 3 and not came.json["verified"]
    assert came.json["found"][0]["fault"].startswith("metadata_mixed")
    (stick / "metadata/timestamp.json").write_bytes(b"{}")
    came = ota("verify", stick)
    assert came.code == 3 and came.error and came.error.reason == "metadata_invalid"
    assert ota("verify", tmp_path / "nowhere").code == 4


def test_one_counter_is_given_once_and_one_release_signed_once(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    ota("publish", bundle, "--key", KEY, "--offline", "--yes", "--counter", "7")
    came = ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    assert came.code == 3 and came.error and came.error.reason == "already_signed"
    second = make_bundle(tmp_path / "second", make_task(), version="2", seed=3)
    came = ota("publish", second, "--key", KEY, "--offline", "--yes", "--counter", "7")
    assert came.code == 3 and came.error and came.error.reason == "counter_used"
    assert ota("publish", second, "--key", KEY, "--offline", "--yes", "--json").json["counter"] == 8


def test_gc_removes_what_nothing_needs_and_says_why_the_rest_stays(ota: Ota, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    for number in range(1, 5):
        bundle = make_bundle(tmp_path / str(number), make_task(), version=str(number), seed=number)
        ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    place = Workplace(tmp_path / "outrider-releases", lambda _: SECRET.encode())
    first = publishing.find(place, "1")
    plan = RolloutPlan(
        rollout="old-and-done",
        releases=[publishing.find(place, "2").planned],
        groups=[Group(name="all")],
        salt="0" * 16,
        start_ms=1,
        expires_ms=2,
    )
    publishing.sign_plan(place, plan, [KEY])
    publishing_of(place)
    living = msgspec.structs.replace(plan, rollout="now", rollback_to=[first.planned], expires_ms=2**52)
    publishing.sign_plan(place, living, [KEY])
    publishing_of(place)
    assert ota("gc").code == 2, "what devices hold must be asked, or said that there are none"
    assert ota("gc", "--no-devices", "--keep", "1", "--yes").code == 2, "a removal is signed"
    assert ota("gc", "--no-devices", "--keep", "1", "--key", KEY, "--json").json["dry_run"], "a removal needs a yes"
    said = ota("gc", "--no-devices", "--keep", "1", "--dry-run", "--json").json
    why = {each["version"]: each["why"] for each in said["releases"]}
    assert why == {"4": "one of the 1 newest", "3": "", "2": "a plan names it", "1": "a plan may return to it"}
    assert [each["rollout"] for each in said["expired_plans"]] == ["old-and-done"]
    done = ota("gc", "--no-devices", "--keep", "1", "--key", KEY, "--yes", "--json").json
    assert not done["dry_run"] and done["files"] == 2
    assert {each.facts.version for each in publishing.releases(place, TASK)} == {"4", "2", "1"}
    assert ota("verify").code == 0
    assert ota("history", "--json").json["events"][0]["removed"]
    assert ota("gc", "--no-devices", "--keep", "1").code == 0, "there is nothing to remove, and nothing to ask"


def publishing_of(place: Workplace) -> None:
    assert place.publish()


def test_a_plan_that_no_device_would_take_is_not_signed(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK, "--automatic")
    ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    place = Workplace(tmp_path / "outrider-releases", lambda _: SECRET.encode())
    release = publishing.find(place, "1").planned
    wrong = PlannedRelease(task=TASK, release=release.release, size=release.size, counter=9)
    for planned, automatic, reason in ((wrong, False, "plan_contradicted"), (release, True, "plan_beyond_canary")):
        plan = RolloutPlan(
            rollout="r", releases=[planned], groups=[Group(name="all")], salt="0" * 16, start_ms=1, expires_ms=2**50
        )
        with pytest.raises(OutriderError) as refused:
            publishing.sign_plan(place, plan, [KEY], automatic=automatic)
        assert refused.value.reason == reason


def test_a_counter_is_given_once_also_while_the_first_still_lacks_signatures(
    ota: Ota, bundle: Path, tmp_path: Path
) -> None:
    ota("init", "--task", TASK)
    place = Workplace(tmp_path / "outrider-releases", lambda _: b"")
    data = (bundle / MANIFEST_FILE).read_bytes()
    manifest = decode_manifest(data)
    first = next_facts(place, manifest)
    assert sign_release(place, data, manifest_digest(data), first, []) == {TASK: 1}
    assert next_facts(place, manifest).counter == first.counter + 1
    with pytest.raises(RuleRefusalError) as refused:
        sign_release(place, data, manifest_digest(data), first, [])
    assert refused.value.reason == "already_signed"


def test_a_key_that_may_not_sign_leaves_nothing_that_another_would_sign(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    targets = "file:outrider-releases/keys/targets.pem"
    came = ota("publish", bundle, "--key", targets, "--offline", "--yes")
    assert came.code == 3 and came.error and came.error.reason == "foreign_key"
    assert ota("keys", "ls", "--json").json["waiting"] == {}
    ota("keys", "renew", TASK)
    assert ota("keys", "sign", TASK, "--key", KEY).code == 0
    assert ota("history", "--json").json["events"][0]["added"] == []


def test_what_is_proposed_is_shown_before_it_is_signed_and_can_be_forgotten(ota: Ota, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    new = ota("keys", "new", "new.pem", "--json").json
    ota("keys", "rotate", TASK, "--key", new["public"], "--yes")
    came = ota("keys", "sign", "targets")
    assert came.code == 2 and came.error and came.error.reason == "no_key"
    shown = ota("keys", "sign", "targets", "--dry-run", "--json").json
    assert any(new["keyid"][:12] in line for line in shown["about"]) and shown["lacking"] == 1
    assert ota("keys", "discard", "targets").code == 2, "it needs a yes"
    assert ota("keys", "discard", "targets", "--yes").code == 0
    assert "targets" not in ota("keys", "ls", "--json").json["waiting"]


def test_a_carried_root_takes_no_signature_of_another_role(ota: Ota, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    ota("keys", "renew", "root")
    carried = tmp_path / "outrider-releases/proposed/root.json"
    before = carried.read_bytes()
    came = ota("keys", "sign", carried, "--key", "file:outrider-releases/keys/targets.pem")
    assert came.code == 3 and came.error and came.error.reason == "foreign_key"
    assert carried.read_bytes() == before
    assert (
        ota("keys", "sign", carried, "--key", "file:outrider-releases/keys/root-2.pem", "--json").json["signatures"]
        == 1
    )
    alone = tmp_path / "alone" / "root.json"
    alone.parent.mkdir()
    alone.write_bytes(before)
    signed = ota(
        "keys", "sign", alone, "--repository", "nowhere", "--key", "file:outrider-releases/keys/targets.pem", "--json"
    )
    assert any("does not name" in line for line in signed.json["about"]), "without the root before, one is told"


def test_a_folder_that_is_named_is_looked_at_whatever_cloud_the_environment_names(
    ota: Ota, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ota("init", "--task", TASK)
    ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    monkeypatch.setenv("OUTRIDER_OTA_CLOUD", "http://127.0.0.1:9")
    assert ota("verify", "outrider-releases").code == 0
    assert ota("verify").code == 4
    assert ota("show", bundle, "--json").json["counter"] == 1


def test_a_stick_brings_one_plan_its_releases_and_deltas(ota: Ota, bundle: Path, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    second = make_bundle(tmp_path / "second", make_task(), version="2", seed=3)
    for each in (bundle, second):
        ota("publish", each, "--key", KEY, "--offline", "--yes")
    assert ota("export", "stick", "--bundle", second, "--offline").code == 1, "no plan is signed"
    plan = ("rollout", "2", "--offline", "--groups", "100%", "--key", KEY, "--yes", "--name")
    for name in ("first", "later"):
        assert ota(*plan, name, "--start", "1h" if name == "later" else "").code == 0
    assert ota("export", "stick").code == 2, "the release's files must come from somewhere"
    assert ota("export", "stick", "--bundle", bundle).code == 2, "it is no release of the plan"
    dry = ota("export", "stick", "--bundle", second, "--base", bundle, "--dry-run", "--json").json
    assert dry["rollout"] == "later" and not (tmp_path / "stick").exists()
    for name in ("first", "later"):
        done = ota("export", "stick", "--bundle", second, "--base", bundle, "--rollout", name, "--json").json
        assert done["files"] == 2 and done["rollout"] == name
        plans = [path.name for path in (tmp_path / "stick/targets" / TASK / "plans").iterdir()]
        assert len(plans) == 1 and name in plans[0], "nothing of what was on the stick before is left"
    found = ota("verify", "stick", "--json").json
    assert found["verified"] and {each["name"]: each["absent"] for each in found["found"]}["first"]
    assert ota("export", tmp_path, "--bundle", second).code == 2, "a folder with other things in it"


def test_a_value_that_is_none_is_a_mistake_in_the_command(ota: Ota, bundle: Path) -> None:
    ota("init", "--task", TASK)
    ota("publish", bundle, "--key", KEY, "--offline", "--yes")
    for wrong in (("--soak", "5x"), ("--groups", "bogus"), ("--max-failures", "2"), ("--freeze", "never")):
        came = ota("rollout", "1", "--offline", "--dry-run", *wrong)
        assert came.code == 2 and came.error and came.error.fix, wrong
    assert ota("rollout", "--offline").code == 2


def test_only_a_folder_where_a_device_keeps_metadata_is_mended(ota: Ota, tmp_path: Path) -> None:
    ota("init", "--task", TASK)
    (tmp_path / "updates").mkdir()
    came = ota("mend", "updates", "--root", "outrider-releases/metadata/1.root.json")
    assert came.code == 2 and came.error and came.error.reason == "no_metadata"
    assert list((tmp_path / "updates").iterdir()) == []
