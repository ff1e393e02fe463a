"""Thermal zones as Linux shows them. Reads files; judges nothing.

Source: https://docs.kernel.org/driver-api/thermal/sysfs-api.html. Temperatures are in thousandths of a degree Celsius. A zone of
a part that is switched off cannot be read (a Jetson's GPU): it is left out.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from outrider_edge.thermal.rules import Zone

MOST_ZONES = 64
_BYTES = 64
_PLAUSIBLE_C = (-60.0, 200.0)
_LEAST_TRIP_C = 30.0
"""Trip points below stand for none: firmware leaves them at 0."""


def read_zones(path: Path, patterns: Sequence[str] = ()) -> list[Zone]:
    """The zones under ``path`` whose type fits one of ``patterns`` (none: all), as they are now. Blocks. Never raises."""
    found: list[Zone] = []
    for folder in sorted(path.glob("thermal_zone*"))[:MOST_ZONES]:
        kind, temp_c = _text(folder / "type"), _celsius(folder / "temp")
        if not kind or temp_c is None or not _PLAUSIBLE_C[0] <= temp_c <= _PLAUSIBLE_C[1]:
            continue
        if patterns and not any(fnmatchcase(kind, pattern) for pattern in patterns):
            continue
        name = f"{kind}-{len(found)}" if any(zone.name == kind for zone in found) else kind
        found.append(Zone(name, temp_c, min(_passive(folder), default=None)))
    return found


def _passive(folder: Path) -> Iterator[float]:
    for kind in folder.glob("trip_point_*_type"):
        if _text(kind) == "passive":
            temp_c = _celsius(kind.with_name(kind.name.replace("_type", "_temp")))
            if temp_c is not None and _LEAST_TRIP_C <= temp_c <= _PLAUSIBLE_C[1]:
                yield temp_c


def _celsius(path: Path) -> float | None:
    try:
        return int(_text(path)) / 1e3
    except ValueError:
        return None


def _text(path: Path) -> str:
    """The first bytes of a file, on one line; '' when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
