"""One bundle on its way to a signed release: what would be signed, uploaded, signed, made known to the cloud."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from outrider import releases
from outrider.ota import cloudlink, publishing
from outrider.ota.workplace import Workplace
from outrider.progress import Tell
from outrider_trust.facts import ReleaseFacts, Requires
from outrider_wire.manifest import MANIFEST_FILE

Link = tuple[releases.CloudApi, cloudlink.CloudSource]


class Wanted(Struct, kw_only=True):
    """What would be signed."""

    digest: str
    manifest: bytes
    facts: ReleaseFacts
    automatic: bool
    signed: bool
    """It is signed already: its files may still have to be brought."""

    def about(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "release": self.digest,
            "task": self.facts.task,
            "version": self.facts.version,
            "counter": self.facts.counter,
            "automatic": self.automatic,
        }


def prepare(
    place: Workplace,
    link: Link | None,
    folder: Path,
    *,
    counter: int | None,
    requires: Requires,
    automatic: bool,
) -> Wanted:
    """Verifies the bundle, brings the working copy up to date, and says what would be signed. Signs nothing.

    Raises:
        BundleError: the bundle is damaged or unsafe.
        OperatorConfigError, RuleRefusalError: as `publishing.next_facts`.
        TrustError, UnreachableError: the cloud's metadata cannot be had.
    """
    from outrider_engine.bundle import open_bundle

    bundle = open_bundle(folder)
    if link is not None:
        cloudlink.pull(place.repository, link[1])
    facts = publishing.next_facts(place, bundle.manifest, counter=counter, requires=requires)
    known = publishing.signed_as(place, bundle.digest, facts.task, automatic=automatic)
    return Wanted(
        digest=bundle.digest,
        manifest=(bundle.root / MANIFEST_FILE).read_bytes(),
        facts=known.facts if known else facts,
        automatic=automatic,
        signed=known is not None,
    )


def upload(link: Link | None, folder: Path, tell: Tell) -> None:
    """Puts whatever the cloud does not have of the bundle's files."""
    if link is None:
        return
    for blob in releases.plan(link[0], folder, []).upload:
        link[0].put(blob, tell)


def sign(place: Workplace, wanted: Wanted, keys: Sequence[str]) -> None:
    """Proposes and signs; errors as `publishing.sign_release`."""
    publishing.sign_release(place, wanted.manifest, wanted.digest, wanted.facts, keys, automatic=wanted.automatic)


def register(link: Link | None, wanted: Wanted) -> None:
    """Tells the cloud that it is a release, whose files devices may ask for."""
    if link is not None:
        link[0].release(wanted.digest)
