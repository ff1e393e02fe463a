"""Who may sign what, and how that changes: the first set of keys, and every later addition, rotation and revocation.

A change is proposed here and signed elsewhere: the keys of a role are named by whoever vouches for it, the root for root, targets
and the online roles, the targets role for tasks and ``control``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from securesystemslib.signer import Key  # type: ignore[attr-defined]

from outrider.ota.workplace import Workplace
from outrider_trust.facts import (
    CANARY_FIELD,
    CONTROL,
    CONTROL_PATH,
    Canary,
    auto_paths,
    auto_role,
    encode_canary,
    task_paths,
)
from outrider_trust.keys import URI_FIELD
from outrider_trust.repository import KINDS, ONLINE, Repository, delegate
from outrider_wire.errors import OperatorConfigError, RuleRefusalError


class Founding(Struct, kw_only=True):
    """Everyone's first keys."""

    roots: list[Key]
    threshold: int
    targets: list[Key]
    online: dict[str, Key]
    """Of snapshot, timestamp and control."""
    tasks: dict[str, Key]
    autos: dict[str, Key] = {}
    """Of a task's automatic role, where there is one."""
    canary: Canary | None = None


class KeyRow(Struct, kw_only=True):
    """One key of one role."""

    role: str
    keyid: str
    where: str
    """Its URI, as far as it is known."""
    threshold: int
    keys: int
    expires: str
    state: str
    """``published``, or what is proposed: ``to add``, ``to remove``."""


def found(place: Workplace, founding: Founding) -> list[str]:
    """Proposes the first version of every role; their names.

    Raises:
        OperatorConfigError: there is a repository already; the threshold cannot be met.
    """
    _check_threshold("root", founding.threshold, len(founding.roots))
    place.repository.make()
    _propose_root(place.repository, founding)
    _propose_targets(place.repository, founding)
    roles = [*founding.tasks, *map(auto_role, founding.autos)]
    for role in roles:
        place.repository.propose(role, place.repository.fresh(role))
    return ["root", "targets", *roles]


def _propose_root(repository: Repository, founding: Founding) -> None:
    metadata = repository.fresh("root")
    for key in founding.roots:
        metadata.signed.add_key(key, "root")
    metadata.signed.roles["root"].threshold = founding.threshold
    for key in founding.targets:
        metadata.signed.add_key(key, "targets")
    for role in ONLINE:
        metadata.signed.add_key(founding.online[role], role)
    repository.propose("root", metadata)


def _propose_targets(repository: Repository, founding: Founding) -> None:
    metadata = repository.fresh("targets")
    for task, key in founding.tasks.items():
        delegate(metadata.signed, task, task_paths(task), [key])
    for task, key in founding.autos.items():
        made = delegate(metadata.signed, auto_role(task), auto_paths(task), [key])
        if founding.canary is not None:
            made.unrecognized_fields[CANARY_FIELD] = encode_canary(founding.canary)
    delegate(metadata.signed, CONTROL, [CONTROL_PATH], [founding.online[CONTROL]])
    repository.propose("targets", metadata)


def change(
    place: Workplace,
    role: str,
    *,
    add: Sequence[Key] = (),
    drop: Sequence[str] = (),
    threshold: int | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Proposes other keys for a role; the files that must now be signed, the one that names the keys first.

    Args:
        role: any role; an unknown one is a task that gets its first key.
        drop: key ids, or unambiguous beginnings of them.
        threshold: of how many keys; None: as it was.
        dry_run: only say what it would be.

    Raises:
        OperatorConfigError: ``role_missing``, ``key_unknown``, ``threshold``.
        RuleRefusalError: ``last_key``: the role would have none left.
    """
    repository = place.repository
    owner = "root" if role in KINDS else "targets"
    metadata = repository.fresh(owner)
    if role not in KINDS and role not in _roles(owner, metadata.signed):
        if not add:
            raise OperatorConfigError(f"there is no role {role}", reason="role_missing", fix="outrider ota keys ls")
        delegate(metadata.signed, role, task_paths(role), [])
    for key in add:
        metadata.signed.add_key(key, role)
    for keyid in drop:
        metadata.signed.revoke_key(_known(keyid, _roles(owner, metadata.signed)[role].keyids, role), role)
    about = _roles(owner, metadata.signed)[role]
    if not about.keyids:
        raise RuleRefusalError(f"{role} would have no key left", reason="last_key", fix="rotate it: name a new one")
    if threshold is not None:
        about.threshold = threshold
    _check_threshold(role, about.threshold, len(about.keyids))
    follow = [role] if role not in (*KINDS, CONTROL) else []
    if role == "targets":
        follow = ["targets"]
    if not dry_run:
        repository.propose(owner, metadata)
        for each in follow:
            repository.propose(each, repository.fresh(each))
    return [owner, *follow]


def renewal(place: Workplace, roles: Sequence[str], *, dry_run: bool = False) -> list[str]:
    """Proposes the same again with a new expiry, of roles that are about to expire."""
    for role in roles:
        fresh = place.repository.fresh(role)
        if not dry_run:
            place.repository.propose(role, fresh)
    return list(roles)


def listed(place: Workplace) -> list[KeyRow]:
    """Every key of every role, published or proposed."""
    rows: list[KeyRow] = []
    for owner in ("root", "targets"):
        now = place.repository.read(owner).signed if place.repository.version(owner) else None
        waiting = place.repository.pending(owner)
        after = waiting.signed if waiting else now
        for role in {**_roles(owner, now), **_roles(owner, after)}:
            before, next_ = (_keyids(owner, each, role) for each in (now, after))
            about = (_roles(owner, after) or _roles(owner, now)).get(role) or _roles(owner, now)[role]
            for keyid in dict.fromkeys([*before, *next_]):
                state = (
                    "published" if keyid in before and keyid in next_ else "to add" if keyid in next_ else "to remove"
                )
                rows.append(
                    KeyRow(
                        role=role,
                        keyid=keyid,
                        where=_where(owner, after if keyid in next_ else now, keyid),
                        threshold=about.threshold,
                        keys=len(about.keyids),
                        expires=_expires(place, role),
                        state=state,
                    )
                )
    return rows


def _expires(place: Workplace, role: str) -> str:
    if role == CONTROL or not place.repository.version(role):
        return ""
    return f"{place.repository.read(role).signed.expires:%Y-%m-%d %H:%M}"


def _roles(owner: str, signed: Any) -> Mapping[str, Any]:
    if signed is None:
        return {}
    if owner == "root":
        roles: Mapping[str, Any] = signed.roles
        return roles
    return (signed.delegations.roles or {}) if signed.delegations else {}


def _keyids(owner: str, signed: Any, role: str) -> list[str]:
    about = _roles(owner, signed).get(role)
    return list(about.keyids) if about else []


def _where(owner: str, signed: Any, keyid: str) -> str:
    keys = signed.keys if owner == "root" else signed.delegations.keys
    return str(keys[keyid].unrecognized_fields.get(URI_FIELD, "")) if keyid in keys else ""


def _known(begin: str, keyids: Sequence[str], role: str) -> str:
    fitting = [keyid for keyid in keyids if keyid.startswith(begin)]
    if len(fitting) != 1:
        raise OperatorConfigError(
            f"{len(fitting)} keys of {role} begin with {begin!r}",
            reason="key_unknown",
            fix="see `outrider ota keys ls`",
        )
    return fitting[0]


def _check_threshold(role: str, threshold: int, keys: int) -> None:
    if not 1 <= threshold <= keys:
        raise OperatorConfigError(
            f"{role} would need {threshold} of {keys} keys", reason="threshold", fix="give as many keys, or lower it"
        )
