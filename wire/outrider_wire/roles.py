"""What a group of examples may be used for, decided once by a keyed hash. Knows no store and no rows.

A role is a function of the group's name and the key alone: it does not change when rows are added, and nobody without
the key can aim an example at the certification rows.
"""

import hashlib
import hmac
import math
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

Role = Literal["train", "tuning", "gate", "certification", "test"]
ROLES: tuple[Role, ...] = get_args(Role)

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Shares(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How large a share of the groups each role gets. Changing them moves groups between roles: decide once."""

    train: Share = 0.5
    tuning: Share = 0.1
    """Temperature, thresholds, every choice."""
    gate: Share = 0.1
    """Verdicts on a candidate."""
    certification: Share = 0.2
    test: Share = 0.1

    def __post_init__(self) -> None:
        """Refuses shares that do not sum to one."""
        total = math.fsum(getattr(self, role) for role in ROLES)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares sum to {total:g}, not to 1")


DEFAULT_SHARES = Shares()


def fraction_of(group: str, key: str, salt: str = "") -> float:
    """A number in [0, 1) that looks uniform to whoever lacks the key: HMAC-SHA256 (RFC 2104), its first 53 bits.

    Each ``salt`` gives an independent one.
    """
    digest = hmac.new(key.encode(), f"{salt}\0{group}".encode(), hashlib.sha256).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def role_of(group: str, *, key: str, shares: Shares = DEFAULT_SHARES) -> Role:
    """The one role of that group."""
    fraction, upto = fraction_of(group, key, "role"), 0.0
    given = [role for role in ROLES if getattr(shares, role) > 0]
    for role in given:
        upto += getattr(shares, role)
        if fraction < upto:
            return role
    return given[-1]


def is_audited(input_id: str, *, key: str, rate: float, salt: str = "audit") -> bool:
    """Whether an input that is answered on the device is sent to the large model as well, with probability ``rate``.

    Each ``salt`` draws a sample of its own: "audit" of what the rule accepts, "memory" of what the answer memory says.
    """
    return fraction_of(input_id, key, salt) < rate
