"""The first set of keys: those that are named, and those that are made on this machine for a first try."""

import re
import secrets
from pathlib import Path

from msgspec import Struct
from securesystemslib.signer import Key  # type: ignore[attr-defined]

from outrider.ota import ceremony
from outrider.ota.passphrases import passphrases
from outrider.ota.workplace import PUBLIC, Workplace, write_public
from outrider_link.files import make_folder
from outrider_trust.facts import CONTROL, FILE, Canary, auto_role
from outrider_trust.keys import new_key
from outrider_trust.repository import KINDS, ONLINE
from outrider_wire.errors import OperatorConfigError
from outrider_wire.names import NAME_PATTERN
from outrider_wire.rollout import Group

CANARY_SHARE = 0.01
_SIGNERS = re.compile(r"([1-9])of([1-9])")


class Wish(Struct, kw_only=True):
    """What a person asks for."""

    tasks: list[str]
    threshold: int
    roots: int
    root_keys: list[str]
    targets_key: str
    automatic: bool
    canary: list[str]

    @property
    def said(self) -> str:
        """In words."""
        auto = (
            f", and the learning loop's to {'named devices' if self.canary else f'{CANARY_SHARE:.0%}'}"
            if self.automatic
            else ""
        )
        return f"root {self.threshold} of {self.roots}, releases of {', '.join(self.tasks)}{auto}"

    def about(self) -> dict[str, object]:
        """For ``--json``."""
        return {"threshold": self.threshold, "root_keys": self.roots, "tasks": self.tasks, "automatic": self.automatic}


class Done(Struct, kw_only=True):
    """What came of it."""

    move: list[str]
    """Private keys here that belong offline."""
    waiting: list[str]
    """Roles that other machines must sign."""


def wished(
    tasks: list[str],
    signers: str,
    root_keys: list[str],
    targets_key: str,
    *,
    automatic: bool,
    canary: list[str],
) -> Wish:
    """Checks what was asked for.

    Raises:
        OperatorConfigError: a name is none, or the numbers do not fit.
    """
    found = _SIGNERS.fullmatch(signers)
    if not found or int(found[1]) > int(found[2]) or (root_keys and len(root_keys) != int(found[2])):
        raise OperatorConfigError(
            f"{signers} does not fit {len(root_keys) or 'the'} root keys",
            reason="invalid_signers",
            fix="write 2of3, as many as keys",
        )
    reserved = {*KINDS, CONTROL}
    for task in tasks:
        if not re.fullmatch(NAME_PATTERN, task) or task in reserved or task.endswith("-auto"):
            raise OperatorConfigError(
                f"{task[:80]!r} can be no task's role", reason="invalid_task", fix="name it as the task file does"
            )
    return Wish(
        tasks=tasks,
        threshold=int(found[1]),
        roots=int(found[2]),
        root_keys=root_keys,
        targets_key=targets_key,
        automatic=automatic,
        canary=canary,
    )


def found_here(place: Workplace, wish: Wish, passphrase_file: Path | None) -> Done:
    """Makes what keys are lacking, proposes everything, signs with what is here, publishes what is complete.

    Raises:
        OperatorConfigError: there is a repository or a key already; no passphrase.
    """
    folder = place.keys
    if any(place.repository.metadata.glob("*.json")):
        raise OperatorConfigError(
            f"there is a repository in {place.repository.folder} already",
            reason="repository_exists",
            fix="name another",
        )
    make_folder(folder)
    asked: dict[str, bytes] = {}

    def made(name: str, *, online: bool = False) -> str:
        if not online and not asked:
            asked["all"] = passphrases(passphrase_file, again=True)("the offline keys")
        key = new_key(folder / f"{name}.pem", b"" if online else asked["all"])
        write_public(folder / f"{name}{PUBLIC}", key)
        return f"{FILE}:{folder / f'{name}.pem'}"

    here: dict[str, list[str]] = {"root": [], "targets": []}
    if not wish.root_keys:
        here["root"] = [made(f"root-{number + 1}") for number in range(wish.roots)]
    if not wish.targets_key:
        here["targets"] = [made("targets")]
    for task in wish.tasks:
        here[task] = [made(task)]
    if wish.automatic:
        for task in wish.tasks:
            here[auto_role(task)] = [made(auto_role(task), online=True)]
    online = {role: made(role, online=True) for role in (*ONLINE, CONTROL)}

    def public(uri: str) -> Key:
        return place.public(f"{uri.removeprefix(f'{FILE}:').removesuffix('.pem')}{PUBLIC}")

    founding = ceremony.Founding(
        roots=[place.public(each) for each in wish.root_keys] or [public(each) for each in here["root"]],
        threshold=wish.threshold,
        targets=[place.public(wish.targets_key) if wish.targets_key else public(here["targets"][0])],
        online={role: public(uri) for role, uri in online.items()},
        tasks={task: public(here[task][0]) for task in wish.tasks},
        autos={task: public(here[auto_role(task)][0]) for task in wish.tasks} if wish.automatic else {},
        canary=_canary(wish),
    )
    for role in ceremony.found(place, founding):
        if uris := here.get(role):
            place.sign(role, uris[: wish.threshold] if role == "root" else uris)
    place.publish()
    offline = [
        uri.removeprefix(f"{FILE}:") for role, uris in here.items() if not role.endswith("-auto") for uri in uris
    ]
    return Done(move=offline, waiting=list(place.waiting()))


def _canary(wish: Wish) -> Canary | None:
    if not wish.automatic:
        return None
    group = Group(name="canary", share=1.0 if wish.canary else CANARY_SHARE, devices=wish.canary)
    return Canary(group=group, salt=secrets.token_hex(16))
