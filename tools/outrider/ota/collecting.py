"""Which releases and plans nobody needs any more, and their removal from signed metadata. The rule is pure."""

import time
from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct

from outrider.ota.publishing import Known, releases, tasks_of
from outrider.ota.workplace import Workplace
from outrider.releases import CloudApi
from outrider_trust.facts import auto_role, decode_plan
from outrider_wire.rollout import RolloutPlan


class Kept(Struct, kw_only=True):
    """A release and why it stays; '' where nothing needs it."""

    task: str
    digest: str
    version: str
    counter: int
    automatic: bool
    why: str
    path: str


class OldPlan(Struct, kw_only=True):
    """A plan that has expired."""

    task: str
    rollout: str
    path: str


class Survey(Struct, kw_only=True):
    """What would go, and what stays."""

    releases: list[Kept]
    plans: list[OldPlan]

    @property
    def going(self) -> list[Kept]:
        """Releases that nothing needs."""
        return [each for each in self.releases if not each.why]


def judge(
    known: Sequence[Known],
    plans: Sequence[RolloutPlan],
    running: Collection[str],
    *,
    keep: int,
    returned: Collection[str] = (),
) -> dict[str, str]:
    """Why each release is needed, by digest; '' where it is not. Pure.

    Args:
        known: releases of one task, the newest first.
        plans: those that have not expired.
        running: digests that a device runs, holds, or should hold.
        keep: how many of the newest stay in any case.
        returned: digests that a rollout of the cloud may return to, because devices ran them before.
    """
    planned = {each.release for plan in plans for each in plan.releases}
    back = {each.release for plan in plans for each in plan.rollback_to}.union(returned)
    reasons = (
        (lambda _, each: each.digest in running, "a device holds it"),
        (lambda _, each: each.digest in planned, "a plan names it"),
        (lambda _, each: each.digest in back, "a plan may return to it"),
        (lambda place, _: place < keep, f"one of the {keep} newest"),
    )
    return {
        each.digest: next((why for needs, why in reasons if needs(place, each)), "") for place, each in enumerate(known)
    }


def survey(
    place: Workplace,
    running: Collection[str],
    *,
    keep: int = 2,
    returned: Collection[str] = (),
    now_ms: int | None = None,
) -> Survey:
    """All tasks' releases and expired plans, judged."""
    now = int(time.time() * 1000) if now_ms is None else now_ms
    living, old = _plans(place, now)
    found: list[Kept] = []
    for task in tasks_of(place):
        known = releases(place, task)
        why = judge(known, living, running, keep=keep, returned=returned)
        for each in known:
            path = f"{task}/auto/{each.digest}.json" if each.automatic else f"{task}/{each.digest}.json"
            found.append(
                Kept(
                    task=task,
                    digest=each.digest,
                    version=each.facts.version,
                    counter=each.facts.counter,
                    automatic=each.automatic,
                    why=why[each.digest],
                    path=path,
                )
            )
    return Survey(releases=found, plans=old)


class CloudRelease(Struct, kw_only=True):
    """A release of the cloud's store and why it stays; '' where nothing needs it."""

    digest: str
    task: str
    version: str
    bytes: int
    why: str
    returned: bool = False


class CloudStock(Struct, kw_only=True):
    """The cloud's releases, and what goes with those that nothing needs."""

    releases: list[CloudRelease] = []
    files: int = 0
    bytes: int = 0

    @property
    def going(self) -> list[CloudRelease]:
        """Releases that nothing needs."""
        return [each for each in self.releases if not each.why]


def in_cloud(api: CloudApi, *, keep: int, without: Sequence[str] = (), dry_run: bool) -> CloudStock:
    """What the cloud removes of its own store, or would.

    Args:
        api: The cloud.
        keep: How many of the newest stay in any case.
        without: Releases that are about to be signed no more.
        dry_run: Whether it only says so.
    """
    body = {"keep": keep, "without": list(without) if dry_run else [], "dry_run": dry_run}
    return api.post("/v1/releases/collect", body, CloudAnswer).collected


class CloudAnswer(Struct, kw_only=True):
    """The cloud's reply."""

    collected: CloudStock


def without(place: Workplace, collection: Survey) -> dict[str, Any]:
    """The next version of every role that loses something, to be signed. Bytes are removed by `sweep`, after that."""
    gone: dict[str, list[str]] = {}
    for each in collection.going:
        gone.setdefault(auto_role(each.task) if each.automatic else each.task, []).append(each.path)
    for plan in collection.plans:
        gone.setdefault(auto_role(plan.task) if "/auto/" in plan.path else plan.task, []).append(plan.path)
    next_ = {role: place.repository.fresh(role) for role in sorted(gone)}
    for role, metadata in next_.items():
        for path in gone[role]:
            metadata.signed.targets.pop(path, None)
    return next_


def sweep(place: Workplace) -> int:
    """Removes the bytes of targets that no published or proposed role names; how many files went."""
    named: set[str] = set()
    for role in place.repository.roles():
        for metadata in (place.repository.read(role), place.repository.pending(role)):
            for target in getattr(metadata.signed if metadata else None, "targets", {}).values():
                named.update(target.get_prefixed_paths())
    folder = place.repository.folder / "targets"
    gone = [path for path in folder.rglob("*.json") if str(path.relative_to(folder)) not in named]
    for path in gone:
        path.unlink()
    return len(gone)


def _plans(place: Workplace, now_ms: int) -> tuple[list[RolloutPlan], list[OldPlan]]:
    living: list[RolloutPlan] = []
    old: list[OldPlan] = []
    for task in tasks_of(place):
        for role in (task, auto_role(task)):
            if not place.repository.version(role):
                continue
            for path, target in place.repository.read(role).signed.targets.items():
                if "/plans/" not in path:
                    continue
                plan = decode_plan((place.repository.folder / "targets" / target.get_prefixed_paths()[0]).read_bytes())
                if plan.expires_ms > now_ms:
                    living.append(plan)
                else:
                    old.append(OldPlan(task=task, rollout=plan.rollout, path=path))
    return living, old
