"""The flags of ``outrider ota`` that name a working copy, a key, a cloud; and what they open."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outrider.ota.cloudlink import CloudSource
    from outrider.ota.workplace import Workplace
    from outrider.output import Screen
    from outrider.releases import CloudApi

DEFAULT_REPOSITORY = Path("outrider-releases")

Folder = Annotated[
    Path,
    typer.Option(
        "--repository", envvar="OUTRIDER_OTA_REPOSITORY", metavar="DIR", help="The working copy of signed metadata."
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key", metavar="URI", help="A key that signs: file:PATH, hsm:…, awskms:…, gcpkms:…, azurekms:…, hv:…"
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Holds the passphrase of key files; default: $OUTRIDER_KEY_PASSPHRASE, else you are asked."
    ),
]
CloudOf = Annotated[
    str,
    typer.Option("--cloud", envvar="OUTRIDER_OTA_CLOUD", metavar="URL", help="The cloud that keeps the repository."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_OTA_TOKEN_FILE", metavar="FILE", help="File with the cloud's bearer token."),
]
CaFile = Annotated[
    Path | None,
    typer.Option(envvar="OUTRIDER_OTA_CA_FILE", metavar="FILE", help="Who signed the certificate of an https:// API."),
]


@contextmanager
def usage() -> "Iterator[None]":
    """A value that is none is a mistake in the command, which ends with code 2."""
    from outrider_wire.errors import CallerInputError, OperatorConfigError

    try:
        yield
    except CallerInputError as error:
        raise OperatorConfigError(error.what, reason=error.reason, fix=error.fix) from error


def workplace(folder: Path, passphrase_file: Path | None) -> "Workplace":
    """The working copy."""
    from outrider.ota.passphrases import passphrases
    from outrider.ota.workplace import Workplace

    return Workplace(folder, passphrases(passphrase_file))


def cloud_of(cloud: str, token_file: Path | None, ca_file: Path | None) -> "tuple[CloudApi, CloudSource] | None":
    """The cloud and its repository; None where none was named."""
    if not cloud:
        return None
    from outrider import releases
    from outrider.ota.cloudlink import CloudSource

    api = releases.CloudApi(cloud, token_file=token_file, ca_file=ca_file)
    return api, CloudSource(api.transport)


def finish(place: "Workplace", screen: "Screen", link: "tuple[CloudApi, CloudSource] | None") -> dict[str, object]:
    """Publishes what has all its signatures, here and, where there is one, in the cloud; what came of it, for ``--json``."""
    from outrider.ota import cloudlink, uploading

    published = place.publish()
    sent: list[str] = []
    if link is not None and published:
        api, source = link
        uploading.put_targets(api, place)
        sent = cloudlink.push(place.repository, source, api.transport)
        cloudlink.pull(place.repository, source)
    waiting = place.waiting()
    for role, lacking in waiting.items():
        screen.note(
            f"{place.repository.proposed / role}.json lacks {lacking} signature(s): outrider ota keys sign {role} --key …"
        )
    if published and link is None and not place.online_here():
        screen.note("bring metadata/ and targets/ to the cloud's repository: it signs the snapshot within a minute")
    return {"published": published, "sent": sent, "waiting": waiting}
