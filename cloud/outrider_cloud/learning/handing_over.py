"""A promoted bundle into the store of the cloud, as a release that nobody has signed yet. Signs nothing, and offers it to nobody."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from outrider_cloud.clock import now_ms
from outrider_cloud.store import release_rows
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_engine.bundle import open_bundle
from outrider_wire.manifest import MANIFEST_FILE


def hand_over(bundle: Path, *, store: Store, blobs: BlobStore) -> str:
    """Puts every file of a bundle where devices may be served from; the release's digest. Once more does no harm.

    Raises:
        BundleError: the bundle is damaged or unsafe.
        OSError: a file cannot be written.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    files = {opened.digest: (opened.root / MANIFEST_FILE).read_bytes()}
    files |= {entry.sha256: (opened.root / entry.path).read_bytes() for entry in manifest.files}
    _put_all(files, blobs)
    row = release_rows.row_of(manifest, digest=opened.digest, size=len(files[opened.digest]), stamp_ms=now_ms())
    sizes = {digest: len(data) for digest, data in files.items()}
    store.submit(partial(release_rows.add, row=row, files=sizes)).result()
    _put_all(files, blobs)  # once more: what nothing named, of an older release say, might have been removed meanwhile
    return opened.digest


def _put_all(files: Mapping[str, bytes], blobs: BlobStore) -> None:
    for data in files.values():
        blobs.put(data)
