"""The command that theupdateframework/tuf-conformance drives, around a device's own `TrustedMetadata`.

::

    git clone https://github.com/theupdateframework/tuf-conformance && cd tuf-conformance
    pip install pytest            # and the command faketime, of your distribution
    pytest tuf_conformance --entrypoint "python …/outrider/tools/tuf_conformance.py"

Its interface is CLIENT-CLI.md there. Only HTTP and the target folder are this file's; all that is believed goes through the client.
"""

import argparse
import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from outrider_link.files import write_durably
from outrider_trust.client import TrustedMetadata
from outrider_trust.sources import NotHereError
from outrider_wire.errors import OutriderError, UnreachableError

SHIPPED = "shipped-root"
"""Beside the metadata, without their ending: what provisioning writes in real life."""


class HttpSource:
    """The suite's server."""

    def __init__(self, metadata: str, targets: str) -> None:
        self._bases = {"metadata": metadata.rstrip("/"), "targets": (targets or "").rstrip("/")}

    def fetch(self, path: str, most: int) -> bytes:
        base, _, name = path.partition("/")
        try:
            with urllib.request.urlopen(f"{self._bases[base]}/{name}", timeout=10) as reply:  # noqa: S310 - the suite's own
                data: bytes = reply.read(most + 1)
        except urllib.error.HTTPError as error:
            if error.code in {403, 404}:
                raise NotHereError(path) from error
            raise UnreachableError(str(error), reason="http") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(str(error), reason="http") from error
        return data


def download(client: TrustedMetadata, source: HttpSource, path: str, folder: Path) -> None:
    """One target into the folder, unless it is there."""
    target = client.target(path, source)
    if target is None:
        raise SystemExit(f"{path} is not signed")
    place = folder / quote(path, safe="")
    digest = target.hashes.get("sha256", "")
    if place.exists() and hashlib.sha256(place.read_bytes()).hexdigest() == digest:
        return
    write_durably(place, client.target_bytes(target, source))


def main() -> int:
    """Exit code 0 or 1, as the suite asks."""
    parser = argparse.ArgumentParser()
    for option in ("metadata-url", "metadata-dir", "target-dir", "target-base-url"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("command", choices=["init", "refresh", "download"])
    parser.add_argument("root", nargs="?")
    given = parser.parse_args()
    folder = Path(given.metadata_dir)
    if given.command == "init":
        write_durably(folder / SHIPPED, Path(given.root).read_bytes())
        write_durably(folder / "root.json", Path(given.root).read_bytes())
        return 0
    client = TrustedMetadata(folder, shipped_root=(folder / SHIPPED).read_bytes())
    source = HttpSource(given.metadata_url, given.target_base_url)
    try:
        client.refresh(source)
        for name in given.target_name:
            download(client, source, name, Path(given.target_dir))
    except OutriderError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
