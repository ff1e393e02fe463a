"""Deltas in a folder, as a USB stick carries them: ``deltas/<base>-<target>.delta``, both SHA-256. Trusts no name."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from outrider_engine.delta.make import make_delta
from outrider_link.files import make_folder, sha256_file, write_durably

FOLDER = "deltas"
WORTH = 0.9
"""A delta of at least this share of the whole file is not worth having: models are sent as they are."""


def delta_path(root: Path, *, base: str, target: str) -> Path:
    """Where the delta between two files of these digests lies under ``root``."""
    return root / FOLDER / f"{base}-{target}.delta"


def find_delta(root: Path, *, bases: Iterable[str], target: str) -> tuple[str, Path] | None:
    """The smallest delta under ``root`` that makes ``target`` of one of ``bases``, and of which; None: there is none."""
    there = [(base, path) for base in bases if (path := delta_path(root, base=base, target=target)).is_file()]
    return min(there, key=lambda each: each[1].stat().st_size, default=None)


def write_delta(root: Path, *, base: Path, target: Path) -> Path | None:
    """Makes the delta between two files and puts it under ``root``, durably; None: it is not worth having.

    Raises:
        BundleUnsafeError: a file is larger than any that a bundle may hold.
        OSError: a file cannot be read or written.
    """
    delta = worth_sending(base, target)
    if delta is None:
        return None
    path = delta_path(root, base=sha256_file(base), target=sha256_file(target))
    make_folder(path.parent)
    write_durably(path, delta)
    return path


def worth_sending(base: Path, target: Path) -> bytes | None:
    """The delta between two files; None: it is hardly smaller than the target itself.

    Raises:
        As `write_delta`.
    """
    delta = make_delta(base.read_bytes(), target.read_bytes())
    return delta if len(delta) < WORTH * target.stat().st_size else None


def write_deltas(root: Path, *, bases: Sequence[Path], targets: Sequence[Path]) -> list[Path]:
    """`write_delta` for each base and target of one file name: what a stick needs to bring a release to any of several others."""
    pairs = [(base, target) for target in targets for base in bases if base.name == target.name]
    made = [write_delta(root, base=base, target=target) for base, target in pairs]
    return [path for path in made if path is not None]
