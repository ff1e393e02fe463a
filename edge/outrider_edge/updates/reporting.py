"""What a device tells of its slots and of what it sees: numbered, and signed with its own key. Decides nothing, publishes nothing.

A report is signed with the key of the device's certificate, or, where it has none, with a key of its own that is made at the first
start; the signature is an `outrider_trust.envelope` around the report itself, so that a broker or another device can neither make one
nor give an old one for new (the number grows over restarts too).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from outrider_edge.updates.ledger import Ledger, LedgerFile
from outrider_link.files import make_folder, write_durably
from outrider_trust.envelope import ENVELOPE_BYTES, seal
from outrider_trust.reports import REPORT_TYPE, TELEMETRY_TYPE, key_id, public_der
from outrider_wire.errors import OperatorSetupError
from outrider_wire.messages import Ended, Reported, SlotReport, Telemetry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

log = logging.getLogger(__name__)

KEY_FILE = "report.key"


class ReportKey:
    """`outrider_trust.envelope.EnvelopeSigner`: ECDSA over P-256 with SHA-256 (FIPS 186-5, §6), the signature as DER.

    The key id is the SHA-256 of the public key's SubjectPublicKeyInfo, as of the certificate where there is one.

    Args:
        file: PEM with the private key; a certificate beside it does no harm.
    """

    def __init__(self, file: Path) -> None:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - 30 ms that a start need not wait for
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

        try:
            key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise OperatorSetupError(
                f"the key {file} cannot be read: {error}", reason="identity_unusable", fix="join again, or remove it"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise OperatorSetupError(f"{file} is no EC key", reason="identity_unusable", fix="join again")
        self._key: EllipticCurvePrivateKey = key
        self.keyid = key_id(key.public_key())
        self.public = public_der(key.public_key())
        """SubjectPublicKeyInfo, DER."""

    def sign(self, payload: bytes) -> bytes:
        """The signature."""
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

        return self._key.sign(payload, ec.ECDSA(hashes.SHA256()))


def report_key(folder: Path, certificate: Path | None) -> ReportKey:
    """The device's key: of its certificate, else its own, made here once. Blocks.

    Raises:
        OperatorSetupError: it cannot be made or read.
    """
    if certificate is not None and certificate.exists():
        try:
            return ReportKey(certificate)
        except OperatorSetupError as error:  # the key may lie elsewhere, or be of another kind
            log.info("report.other_key", extra={"what": error.what})
    path = folder / KEY_FILE
    if not path.exists():
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            make_folder(folder)
            write_durably(path, pem, mode=0o600)
        except OSError as error:
            raise OperatorSetupError(
                f"the key {path} cannot be made: {error}", reason="identity_unusable", fix="check the folder's rights"
            ) from error
    return ReportKey(path)


class Reporter:
    """Makes reports.

    Args:
        device: its name.
        ledger: where the numbers are.
        key: signs; None: nothing is signed.
        now_ms: UTC by this device's clock.
    """

    def __init__(
        self,
        *,
        device: str,
        ledger: LedgerFile,
        key: Callable[[], ReportKey] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._device = device
        self._ledger = ledger
        self._make_key = key
        self._key: ReportKey | None = None
        self._now_ms = now_ms

    def report(self, slots: Sequence[SlotReport], *, metadata: Mapping[str, int], held: str) -> Reported:
        """What is told now, under the next number. Blocks: the number is durable before anybody hears it."""
        try:
            sequence = self._ledger.keep(self._next).sequence
        except OSError as error:  # told all the same, and unsigned: a number must not come twice
            log.error("report.not_numbered", extra={"what": str(error)})
            sequence = 0
        ledger = self._ledger.now
        told = Reported(
            slots=list(slots),
            device=self._device,
            sequence=sequence or UNSET,
            clock_ms=max(0, self._now_ms()),
            order=ledger.order or UNSET,
            stop=ledger.halt.number or UNSET,
            metadata=dict(metadata) or UNSET,
            attack=ledger.attack or UNSET,
            held=held[:512] or UNSET,
            ends=ledger.ends or UNSET,
        )
        if not sequence or not (sealed := self._signed(told, ledger.ends)) or self._key is None:
            return told
        return replace(told, signed=sealed, key=self._key.public)

    def sign(self, told: Telemetry) -> Telemetry:
        """The same, signed, under the number of the newest report; as it is before the first report was signed. Blocks."""
        if self._key is None or not (sequence := self._ledger.now.sequence):
            return told
        told = replace(told, sequence=sequence)
        sealed = seal(TELEMETRY_TYPE, told, [self._key])
        return replace(told, signed=sealed) if len(sealed) <= ENVELOPE_BYTES else told

    def _next(self, now: Ledger) -> Ledger:
        """Begins at the time of day, so that a device whose ledger is lost is not taken for one that repeats itself."""
        return replace(now, sequence=(now.sequence or max(0, self._now_ms())) + 1)

    def _signed(self, told: Reported, ends: list[Ended]) -> bytes:
        if self._make_key is None:
            return b""
        try:
            self._key = self._key or self._make_key()
        except OperatorSetupError as error:
            log.error("report.not_signed", extra={"what": str(error)})
            return b""
        brief = replace(told, ends=UNSET, slots=_brief(told.slots))
        for part in (told, replace(told, ends=ends[-4:] or UNSET), brief):
            if len(sealed := seal(REPORT_TYPE, part, [self._key])) <= ENVELOPE_BYTES:
                return sealed
        return b""


def _brief(slots: Sequence[SlotReport]) -> list[SlotReport]:
    return [replace(slot, refused=slot.refused[-2:], reason=slot.reason[:64]) for slot in slots]
