"""The bytes of targets into the cloud, before the metadata that names them. Signs nothing."""

import hashlib

from outrider.ota.publishing import target_files
from outrider.ota.workplace import Workplace
from outrider.releases import Blob, CloudApi


def put_targets(api: CloudApi, place: Workplace) -> int:
    """Uploads manifests and plans that the cloud does not have; how many."""
    put = 0
    for path in target_files(place):
        data = path.read_bytes()
        blob = Blob(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        if not api.has(blob.sha256):
            api.put(blob, lambda *_: None)
            put += 1
    return put
