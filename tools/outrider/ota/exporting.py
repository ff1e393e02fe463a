"""A repository on a stick: signed metadata, one plan, its releases' files, and deltas to them. Copies and packs; signs no release."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from outrider.ota import publishing
from outrider.ota.workplace import Workplace
from outrider.progress import Tell
from outrider_link.files import make_folder, write_durably
from outrider_trust.facts import auto_role, decode_plan, plan_path, release_path
from outrider_wire.errors import CallerUnknownError, OperatorConfigError
from outrider_wire.rollout import RolloutPlan

if TYPE_CHECKING:
    from outrider_engine.bundle import Bundle

FILES = "files"
"""Folder of the releases' files, each under its digest."""


class Carried(Struct, kw_only=True):
    """What a stick would bring."""

    rollout: str
    plan: RolloutPlan
    paths: list[str]
    """Targets that it needs: the plan, for each task, and the releases' manifests."""


class Brought(Struct, kw_only=True):
    """What was put there."""

    files: int
    bytes: int
    deltas: int
    good_until: str
    """When the first of the metadata runs out, UTC: later a device refuses it."""

    def about(self) -> dict[str, object]:
        """For ``--json``."""
        return structs.asdict(self)


def check_folder(to: Path) -> None:
    """Whether it may be written to.

    Raises:
        OperatorConfigError: ``not_empty``: something else is in it.
    """
    if to.is_dir() and any(to.iterdir()) and not (to / "metadata" / "timestamp.json").exists():
        raise OperatorConfigError(f"{to} is not empty", reason="not_empty", fix="name a new folder on the stick")


def choose(place: Workplace, rollout: str) -> Carried:
    """The signed plan of that name; of '', the newest that is signed.

    Raises:
        CallerUnknownError: ``unknown_plan``.
    """
    found = [(plan, path) for plan, path in _plans(place) if rollout in ("", plan.rollout)]
    if not found:
        raise CallerUnknownError(
            f"no plan {rollout!r} is signed in this working copy"
            if rollout
            else "no plan is signed in this working copy",
            reason="unknown_plan",
            fix="sign one: outrider ota rollout RELEASE --offline --key URI",
        )
    plan = max((each for each, _ in found), key=lambda each: each.start_ms)
    paths = [path for each, path in found if each.rollout == plan.rollout]
    return Carried(rollout=plan.rollout, plan=plan, paths=paths)


def needed(plan: RolloutPlan, bundles: Sequence["Bundle"]) -> list["Bundle"]:
    """The plan's releases among the bundles.

    Raises:
        OperatorConfigError: ``bundle_missing``: a release of the plan is not among them; ``bundle_foreign``: one is not of the plan.
    """
    wanted = {each.release: each for each in (*plan.releases, *plan.rollback_to)}
    here = {bundle.digest: bundle for bundle in bundles}
    if strangers := [bundle for digest, bundle in here.items() if digest not in wanted]:
        raise OperatorConfigError(
            f"{strangers[0].root} is no release of plan {plan.rollout}",
            reason="bundle_foreign",
            fix="see: outrider ota show",
        )
    if missing := [each for each in plan.releases if each.release not in here]:
        raise OperatorConfigError(
            f"the files of {missing[0].task} {missing[0].release[:12]}… are not named",
            reason="bundle_missing",
            fix="give --bundle DIR for every release of the plan",
        )
    return list(here.values())


def write(
    place: Workplace, carried: Carried, to: Path, *, bundles: Sequence["Bundle"], bases: Sequence["Bundle"], tell: Tell
) -> Brought:
    """Writes the stick, in the place of what was exported there before; files that are there already are not copied again.

    Raises:
        OSError: it cannot be written.
        BundleUnsafeError: a file is larger than any that a bundle may hold.
    """
    if place.online_here():
        place.sign_online()  # fresh: what is carried is a while on its way
    for stale in ("targets", "deltas"):
        shutil.rmtree(to / stale, ignore_errors=True)
    good_until = _copy_metadata(place, to)
    for target in _targets(place, carried):
        _copy(place.repository.folder / "targets" / target, to / "targets" / target)
    brought = Brought(files=0, bytes=0, deltas=0, good_until=good_until)
    entries = {entry.sha256: bundle.root / entry.path for bundle in bundles for entry in bundle.manifest.needed}
    for number, (digest, path) in enumerate(entries.items(), 1):
        tell(f"copying {path.name}", number / len(entries))
        _copy(path, to / FILES / digest)
        brought.files += 1
        brought.bytes += path.stat().st_size
    for bundle in bases:
        brought.deltas += _deltas(to, bundle, entries, tell)
    return brought


def _deltas(to: Path, base: "Bundle", targets: dict[str, Path], tell: Tell) -> int:
    from outrider_engine.delta.beside import write_deltas

    tell(f"deltas from {base.root.name}", 0.0)
    old = [base.root / entry.path for entry in base.manifest.needed if entry.sha256 not in targets]
    return len(write_deltas(to, bases=old, targets=list(targets.values())))


def _copy_metadata(place: Workplace, to: Path) -> str:
    """Every root, so that a device of any age follows them; of the others what the timestamp stands for, the timestamp last.

    Returns:
        When the first of them runs out, UTC.
    """
    repository = place.repository
    if not (repository.metadata / "timestamp.json").exists():
        raise OperatorConfigError(
            "the working copy has no timestamp", reason="no_timestamp", fix="fetch the cloud's: --cloud URL"
        )
    names = [f"{version}.root.json" for version in range(1, repository.version("root") + 1)]
    timestamp = json.loads((repository.metadata / "timestamp.json").read_bytes())
    snapshot = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    listed = json.loads(repository.path("snapshot", snapshot).read_bytes())["signed"]["meta"]
    names += [f"{about['version']}.{name}" for name, about in listed.items()]
    ends: list[str] = []
    make_folder(to / "metadata")
    for name in (*names, f"{snapshot}.snapshot.json", "timestamp.json"):
        data = (repository.metadata / name).read_bytes()
        write_durably(to / "metadata" / name, data)
        if not name.endswith(".root.json") or name == names[repository.version("root") - 1]:
            ends.append(json.loads(data)["signed"]["expires"])
    return min(ends)


def _targets(place: Workplace, carried: Carried) -> Iterator[str]:
    """The files of the plan and of its releases' manifests, as they lie under their digests."""
    wanted = [*carried.paths]
    for each in (*carried.plan.releases, *carried.plan.rollback_to):
        wanted += [release_path(each.task, each.release, automatic=automatic) for automatic in (False, True)]
    for role in place.repository.roles():
        targets = getattr(place.repository.read(role).signed, "targets", {})
        for path in wanted:
            if path in targets:
                yield from targets[path].get_prefixed_paths()


def _plans(place: Workplace) -> Iterator[tuple[RolloutPlan, str]]:
    folder = place.repository.folder / "targets"
    for task in publishing.tasks_of(place):
        for automatic, role in ((False, task), (True, auto_role(task))):
            if not place.repository.version(role):
                continue
            for path, target in place.repository.read(role).signed.targets.items():
                name = path.rpartition("/")[2].removesuffix(".json")
                if path == plan_path(task, name, automatic=automatic):
                    yield decode_plan((folder / target.get_prefixed_paths()[0]).read_bytes()), path


def _copy(path: Path, to: Path) -> None:
    make_folder(to.parent)
    if not to.exists() or to.stat().st_size != path.stat().st_size:
        part = to.with_name(f"{to.name}.part")
        shutil.copyfile(path, part)
        part.replace(to)
