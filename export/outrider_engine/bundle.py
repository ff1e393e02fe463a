"""A bundle on disk: every byte is what its manifest says, and nothing else is there. Runs no model.

A bundle is a flat directory: ``manifest.json`` and the files that it names by SHA-256 and size. One file may be absent: the
certification items, which only what was not certified itself needs.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from outrider_wire.errors import BundleDamagedError, BundleMismatchError, BundleUnsafeError
from outrider_wire.limits import BUNDLE_FILES, MANIFEST_BYTES
from outrider_wire.manifest import (
    MANIFEST_FILE,
    BundleFile,
    Manifest,
    Variant,
    decode_manifest,
    manifest_digest,
)

_FETCH_AGAIN = "fetch or build the bundle again"
_DO_NOT_INSTALL = "do not install it; tell whoever made it"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle. Made by `open_bundle`."""

    root: Path
    manifest: Manifest
    digest: str
    """SHA-256 of the manifest's bytes: the name of the release."""

    def read(self, name: str) -> bytes:
        """The bytes of one file, verified again: what is used is what was named.

        Raises:
            BundleDamagedError: no such file in the manifest, or it has changed since the bundle was opened.
            BundleUnsafeError: it has become a link or something else than a plain file.
        """
        entry = self.manifest.file(name)
        if entry is None:
            raise BundleDamagedError(f"the bundle has no file {name!r}", reason="file_missing", fix=_FETCH_AGAIN)
        data = _read_plain(self.root / name, entry.size)
        _check_digest(entry, hashlib.sha256(data).hexdigest())
        return data

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name; without one, the manifest's first.

        Raises:
            BundleMismatchError: the bundle has no such variant.
        """
        if name is None:
            return self.manifest.variants[0]
        found = next((variant for variant in self.manifest.variants if variant.name == name), None)
        if found is None:
            have = ", ".join(variant.name for variant in self.manifest.variants)
            raise BundleMismatchError(
                f"the bundle has no variant {name!r}", reason="unknown_variant", fix=f"choose one of {have}"
            )
        return found


def open_bundle(path: Path) -> Bundle:
    """Verifies the directory ``path`` file by file and returns it as a bundle.

    Raises:
        BundleDamagedError: a file is missing or is not, byte for byte, what the manifest says.
        BundleUnsafeError: a link, a special file, a sub-folder, a file that the manifest does not name, or a manifest that
            names a path outside the bundle.
    """
    if not path.is_dir():
        raise BundleDamagedError(f"{path} is not a bundle directory", reason="bundle_missing", fix=_FETCH_AGAIN)
    root = path.resolve()
    data = _read_plain(root / MANIFEST_FILE, MANIFEST_BYTES, exact=False)
    manifest = decode_manifest(data)
    _check_names(root, manifest)
    needed = {entry.path for entry in manifest.needed}
    for entry in manifest.files:
        if entry.path in needed or os.path.lexists(root / entry.path):
            _verify(root / entry.path, entry)
    return Bundle(root=root, manifest=manifest, digest=manifest_digest(data))


def _check_names(root: Path, manifest: Manifest) -> None:
    """Exactly the named files, and nothing that could grow between this look and the next."""
    named = {entry.path for entry in manifest.files} | {MANIFEST_FILE}
    with os.scandir(root) as entries:
        for count, found in enumerate(entries):
            if found.name not in named or count > BUNDLE_FILES:
                raise BundleUnsafeError(
                    f"the bundle holds {found.name[:128]!r}, which its manifest does not name",
                    reason="unexpected_file",
                    fix="remove it, or fetch the bundle again",
                )


def _verify(path: Path, entry: BundleFile) -> None:
    descriptor = _open_plain(path)
    with os.fdopen(descriptor, "rb") as file:
        _check_size(entry.path, os.fstat(descriptor).st_size, entry.size)
        digest, left = hashlib.sha256(), entry.size
        while left and (block := file.read(min(left, _READ_BYTES))):
            digest.update(block)
            left -= len(block)
    _check_digest(entry, digest.hexdigest())


def _read_plain(path: Path, size: int, *, exact: bool = True) -> bytes:
    """At most ``size`` bytes of a plain file; ``exact``: it must have just as many."""
    descriptor = _open_plain(path)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor).st_size
        if exact or found > size:
            _check_size(path.name, found, size)
        return file.read(size)


def _open_plain(path: Path) -> int:
    """A descriptor of a plain file that is no link; never waits (a pipe would)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BundleDamagedError(f"{path.name} is missing", reason="file_missing", fix=_FETCH_AGAIN) from error
    except OSError as error:
        if path.is_symlink():
            raise BundleUnsafeError(f"{path.name} is a link", reason="link_in_bundle", fix=_DO_NOT_INSTALL) from error
        raise BundleDamagedError(
            f"{path.name} cannot be read: {error.strerror}", reason="file_unreadable", fix=_FETCH_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleUnsafeError(f"{path.name} is not a plain file", reason="not_a_plain_file", fix=_DO_NOT_INSTALL)
    return descriptor


def _check_size(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise BundleDamagedError(
            f"{name} has {found} bytes, and the manifest says {expected}", reason="file_size", fix=_FETCH_AGAIN
        )


def _check_digest(entry: BundleFile, found: str) -> None:
    if found != entry.sha256:
        raise BundleDamagedError(
            f"{entry.path} is not what the manifest names: its SHA-256 is {found[:12]}…, not {entry.sha256[:12]}…",
            reason="file_digest",
            fix=_FETCH_AGAIN,
        )
