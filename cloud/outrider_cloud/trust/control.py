"""The cloud's signed word: orders to a device, stops to all. The key is of the delegated role ``control``, and signs nothing else."""

from typing import Any

from securesystemslib.signer import Signer  # type: ignore[attr-defined]

from outrider_trust.envelope import ORDER_TYPE, STOP_TYPE, seal
from outrider_trust.facts import CONTROL
from outrider_trust.keys import PayloadSigner
from outrider_trust.repository import Repository
from outrider_wire.errors import RuleRefusalError
from outrider_wire.rollout import DeviceOrder, Stop


class Control:
    """Signs as long as the targets role delegates to its key."""

    def __init__(self, *, repository: Repository, signer: Signer) -> None:
        self._repository = repository
        self._signer = PayloadSigner(signer)
        self._keyid: str = signer.public_key.keyid
        self._delegated_by = 0
        """The version of the targets role in which the delegation was seen: a version never changes."""

    def sign_order(self, order: DeviceOrder) -> bytes:
        """An order in its envelope, for ``Desired.order``.

        Raises:
            RuleRefusalError: ``control_not_delegated``: no device would obey it.
        """
        self._check()
        return seal(ORDER_TYPE, order, [self._signer])

    def sign_stop(self, stop: Stop) -> bytes:
        """A stop in its envelope, for ``StopNotice.envelope``; errors as `sign_order`."""
        self._check()
        return seal(STOP_TYPE, stop, [self._signer])

    def _check(self) -> None:
        version = self._repository.version("targets")
        if version and version == self._delegated_by:
            return
        delegated: Any = self._repository.read("targets", version or None).signed.delegations
        role = (delegated.roles or {}).get(CONTROL) if delegated else None
        if role is None or self._keyid not in role.keyids or role.threshold > 1:
            raise RuleRefusalError(
                "the control key of this cloud is not the one that the targets role delegates to, alone",
                reason="control_not_delegated",
                fix="set trust.control_key, or have this key signed in: outrider ota keys rotate control",
            )
        self._delegated_by = version
