"""How people write a rollout's groups and windows. Pure: text in, the plan's own values out, and back.

Groups, in their order, apart by commas; the terms of one by ``+``: ``site=berlin``, ``5%``, ``site=berlin+25%``,
``devices=cam-1|cam-2``. A name stands before a colon (``canary:group=canary``), else it is made of the terms.
"""

import re
from collections.abc import Mapping

import msgspec

from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError
from outrider_wire.names import NAME_PATTERN
from outrider_wire.rollout import WEEK_MINUTES, Group, WeeklyWindow

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")
_MOMENT = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([01][0-9]|2[0-3]):([0-5][0-9])"
_WINDOW = re.compile(rf"{_MOMENT} ?[-–] ?{_MOMENT}")


FLOOR = 3
"""Where a share of a stage must finish: so many at least, as a threshold needs so many devices to halt anything."""
MINIMUM = "60%"
"""What must finish unless the plan says otherwise: the devices that a release harms are not always the first to tell."""


def parse_groups(text: str, *, minimum: str = MINIMUM) -> list[Group]:
    """The stages of ``5%,25%,100%`` or ``site=berlin,100%``, of each of which ``minimum`` (a count or a share) must have finished.

    Raises:
        CallerInputError: it is none, two have one name, or one could hold nobody that the stages before it have not.
    """
    must = parse_minimum(minimum)
    groups = [_group(item.strip(), must) for item in text.split(",")]
    names: set[str] = set()
    reached: dict[tuple[object, ...], float] = {}
    for group in groups:
        if group.name in names:
            raise _wrong(f"two groups are named {group.name!r}", "write NAME: before one")
        names.add(group.name)
        key = (tuple(sorted(group.facts.items())), tuple(sorted(group.devices)))
        if group.share <= reached.get(key, 0.0):
            raise _wrong(
                f"group {group.name!r} is no larger than the one before it", "shares count from nothing: 5%,25%,100%"
            )
        reached[key] = group.share
    return groups


def parse_minimum(text: str) -> dict[str, float]:
    """``20`` or ``60%`` as a group's own fields.

    Raises:
        CallerInputError: it is neither.
    """
    if (found := _SHARE.fullmatch(text)) and 0 < float(found[1]) <= 100:
        return {"minimum": FLOOR, "minimum_share": float(found[1]) / 100}
    if re.fullmatch(r"[0-9]{1,7}", text) and 1 <= int(text) <= 1_000_000:
        return {"minimum": int(text)}
    raise _wrong(f"{text!r} is no minimum", "write 60% or 20")


def with_minimum(group: Group, text: str) -> Group:
    """The same group, of which that must finish.

    Raises:
        CallerInputError: it is no minimum.
    """
    return msgspec.structs.replace(group, **{"minimum_share": 0.0, **parse_minimum(text)})


def minimum_text(group: Group) -> str:
    """What must finish, as `parse_minimum` reads it."""
    return f"{group.minimum_share * 100:g}%" if group.minimum_share else str(group.minimum)


def _group(text: str, must: Mapping[str, float]) -> Group:
    name, colon, terms = text.rpartition(":")
    share, facts, devices = 1.0, dict[str, str](), list[str]()
    for term in (each.strip() for each in terms.split("+")):
        key, equals, value = term.partition("=")
        if found := _SHARE.fullmatch(term):
            share = float(found[1]) / 100
        elif equals and key == "devices":
            devices = value.split("|")
        elif equals and re.fullmatch(NAME_PATTERN, key) and value:
            facts[key] = value
        else:
            raise _wrong(f"{term!r} is no group", "write 5%, site=berlin, site=berlin+25% or devices=cam-1|cam-2")
    made = {
        "name": name.strip() if colon else _name(share, facts, devices),
        "share": share,
        "facts": facts,
        "devices": devices,
        **must,
    }
    if share == 0.0:
        raise _wrong(f"{text!r} is of nobody", "write a share above 0%")
    try:
        return msgspec.convert(made, decodable(Group))
    except msgspec.ValidationError as error:
        raise _wrong(f"{text!r} is no group: {error}", "see: outrider ota rollout --help") from error


def _name(share: float, facts: Mapping[str, str], devices: list[str]) -> str:
    """``5pct``, ``site-berlin-25pct``, ``two devices`` as ``devices-2``."""
    parts = [f"{key}-{value}" for key, value in facts.items()]
    parts += [f"devices-{len(devices)}"] if devices else []
    parts += [f"{share * 100:g}pct"] if share < 1.0 or not parts else []
    return re.sub(r"[^a-z0-9-]+", "-", "-".join(parts).lower())[:64].strip("-") or "group"


def group_text(group: Group) -> str:
    """A group as `parse_groups` reads it, without its name."""
    terms = [f"{key}={value}" for key, value in group.facts.items()]
    terms += [f"devices={'|'.join(group.devices)}"] if group.devices else []
    terms += [f"{group.share * 100:g}%"] if group.share < 1.0 or not terms else []
    return "+".join(terms)


def parse_freeze(text: str) -> list[WeeklyWindow]:
    """The windows of ``Fri 16:00-Mon 08:00`` (UTC), apart by commas; none of ''.

    Raises:
        CallerInputError: it is none, or a window that is always or never.
    """
    windows = []
    for item in filter(None, (each.strip() for each in text.split(","))):
        if not (found := _WINDOW.fullmatch(item)):
            raise _wrong(f"{item!r} is no weekly window", 'write "Fri 16:00-Mon 08:00", in UTC')
        begin, end = _minute(*found.groups()[:3]), _minute(*found.groups()[3:])
        if begin == end:
            raise _wrong(f"{item!r} holds all week or never", "let it end at another minute")
        windows.append(WeeklyWindow(begin=begin, end=end))
    return windows


def freeze_text(window: WeeklyWindow) -> str:
    """A window as `parse_freeze` reads it."""
    return "-".join(
        f"{DAYS[minute // 1440]} {minute % 1440 // 60:02}:{minute % 60:02}" for minute in (window.begin, window.end)
    )


def _minute(day: str, hour: str, minute: str) -> int:
    return (DAYS.index(day) * 1440 + int(hour) * 60 + int(minute)) % WEEK_MINUTES


def _wrong(what: str, fix: str) -> CallerInputError:
    return CallerInputError(what, reason="invalid_rollout", fix=fix)
