"""Releases and plans into signed metadata: what a role will say next, signed, published here or carried to the cloud."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from outrider.ota.workplace import Workplace
from outrider_trust.facts import CANARY_FIELD as CANARY
from outrider_trust.facts import (
    ReleaseFacts,
    Requires,
    auto_role,
    canary_fault,
    decode_canary,
    plan_path,
    release_facts,
    release_path,
)
from outrider_wire.errors import CallerUnknownError, OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import Manifest
from outrider_wire.rollout import PlannedRelease, RolloutPlan


class Known(Struct, kw_only=True):
    """A release that a role of the working copy lists."""

    digest: str
    size: int
    facts: ReleaseFacts
    automatic: bool

    @property
    def planned(self) -> PlannedRelease:
        """As a plan names it."""
        return PlannedRelease(task=self.facts.task, release=self.digest, size=self.size, counter=self.facts.counter)


def releases(place: Workplace, task: str, *, proposed: bool = False) -> list[Known]:
    """Every release of a task, the newest counter first; automatic ones too; with ``proposed`` also what still lacks signatures."""
    found: list[Known] = []
    for automatic, role in ((False, task), (True, auto_role(task))):
        waiting = place.repository.pending(role) if proposed else None
        if not waiting and not place.repository.version(role):
            continue
        for path, target in (waiting or place.repository.read(role)).signed.targets.items():
            digest = target.hashes.get("sha256", "")
            if path == release_path(task, digest, automatic=automatic):
                facts = release_facts(target.custom, task=task)
                found.append(Known(digest=digest, size=target.length, facts=facts, automatic=automatic))
    return sorted(found, key=lambda each: -each.facts.counter)


def signed_as(place: Workplace, digest: str, task: str, *, automatic: bool, proposed: bool = False) -> Known | None:
    """What is signed of that release by that role, with ``proposed`` also what still lacks signatures; None: nothing."""
    known = (
        each
        for each in releases(place, task, proposed=proposed)
        if each.digest == digest and each.automatic == automatic
    )
    return next(known, None)


def find(place: Workplace, begin: str, task: str = "") -> Known:
    """The one release of that version, or whose digest begins so.

    Raises:
        CallerUnknownError: ``unknown_release``: there is none, or more than one.
    """
    known = [each for name in ([task] if task else tasks_of(place)) for each in releases(place, name)]
    fitting = [each for each in known if each.facts.version == begin] or [
        each for each in known if each.digest.startswith(begin)
    ]
    if len({each.digest for each in fitting}) != 1:
        raise CallerUnknownError(
            f"{len(fitting)} signed releases are called {begin!r}",
            reason="unknown_release",
            fix="see `outrider ota history`, and name more of its digest",
        )
    return fitting[0]


def tasks_of(place: Workplace) -> list[str]:
    """The tasks that the targets role delegates to."""
    delegations = place.repository.read("targets").signed.delegations
    names = (delegations.roles or {}) if delegations else {}
    return [name for name, role in names.items() if f"{name}/*" in (role.paths or [])]


def next_facts(
    place: Workplace, manifest: Manifest, *, counter: int | None = None, requires: Requires | None = None
) -> ReleaseFacts:
    """What would be signed of a bundle.

    Raises:
        OperatorConfigError: ``role_missing``: nobody signs for its task.
        RuleRefusalError: ``counter_used``: its counter is not above every other one.
    """
    if manifest.task not in tasks_of(place):
        raise OperatorConfigError(
            f"no role signs releases of task {manifest.task!r}",
            reason="role_missing",
            fix=f"outrider ota keys add {manifest.task} --key …",
        )
    highest = max((each.facts.counter for each in releases(place, manifest.task, proposed=True)), default=0)
    if counter is not None and counter <= highest:
        raise RuleRefusalError(
            f"counter {counter} is not above {highest}, which was signed already",
            reason="counter_used",
            fix=f"leave it out, or give at least {highest + 1}",
        )
    return ReleaseFacts(
        task=manifest.task,
        version=manifest.version,
        counter=counter or highest + 1,
        parent=manifest.parent,
        requires=requires or Requires(),
    )


def sign_release(
    place: Workplace, data: bytes, digest: str, facts: ReleaseFacts, keys: Sequence[str], *, automatic: bool = False
) -> dict[str, int]:
    """Proposes and signs the next version of the task's role with this release; signatures that it still lacks, by role.

    Raises:
        OperatorConfigError, TrustRefusedError: as `Workplace.sign`.
        RuleRefusalError: ``already_signed``.
    """
    if signed_as(place, digest, facts.task, automatic=automatic, proposed=True):
        raise RuleRefusalError(
            f"release {digest[:12]}… is signed already", reason="already_signed", fix="start it: outrider ota rollout"
        )
    path = release_path(facts.task, digest, automatic=automatic)
    role = auto_role(facts.task) if automatic else facts.task
    return {role: _sign_target(place, role, path, data, keys, custom=msgspec.to_builtins(facts))}


def sign_plan(
    place: Workplace, plan: RolloutPlan, keys: Mapping[str, Sequence[str]] | Sequence[str], *, automatic: bool = False
) -> dict[str, int]:
    """The same with a plan, for every task that it names.

    Args:
        keys: URIs by task; or the same for all of them.

    Raises:
        RuleRefusalError: ``plan_exists``; ``plan_contradicted``: a release is not signed as the plan says; ``plan_beyond_canary``.
    """
    tasks = sorted({each.task for each in (*plan.releases, *plan.rollback_to)})
    for each in (*plan.releases, *plan.rollback_to):
        known = find(place, each.release, each.task)
        if known.planned != each or (known.automatic and not automatic):
            raise RuleRefusalError(
                f"{each.task} {each.release[:12]}… is not signed as the plan names it", reason="plan_contradicted"
            )
    data = msgspec.json.encode(plan)
    lacking: dict[str, int] = {}
    for task in tasks:
        role = auto_role(task) if automatic else task
        path = plan_path(task, plan.rollout, automatic=automatic)
        if automatic and (fault := canary_fault(plan, _canary(place, role))):
            raise RuleRefusalError(f"no device would take this plan: {fault}", reason="plan_beyond_canary")
        if place.repository.version(role) and path in place.repository.read(role).signed.targets:
            raise RuleRefusalError(
                f"there is a plan {plan.rollout!r} already", reason="plan_exists", fix="name it otherwise"
            )
    for task in tasks:
        role = auto_role(task) if automatic else task
        path = plan_path(task, plan.rollout, automatic=automatic)
        uris = keys[task] if isinstance(keys, Mapping) else keys
        lacking[role] = _sign_target(place, role, path, data, uris)
    return lacking


def new_salt() -> str:
    """A plan's own salt."""
    return secrets.token_hex(16)


def target_files(place: Workplace) -> list[Path]:
    """Every target's bytes in the working copy."""
    return [path for path in (place.repository.folder / "targets").rglob("*.json") if path.is_file()]


def _sign_target(
    place: Workplace, role: str, path: str, data: bytes, keys: Sequence[str], *, custom: Any = None
) -> int:
    metadata = place.repository.fresh(role)
    metadata.signed.targets[path] = place.repository.put_target(path, data, custom)
    return place.propose_signed(role, metadata, keys)


def _canary(place: Workplace, role: str) -> Any:
    delegations = place.repository.read("targets").signed.delegations
    about = (delegations.roles or {}).get(role) if delegations else None
    return decode_canary(about.unrecognized_fields.get(CANARY)) if about else None
