"""A bundle's manifest: what a release is made of, file by file, and what may be claimed of it. Reads no files.

A bundle is content-addressed: its digest is the SHA-256 of its manifest's bytes, and the manifest names every other file
by SHA-256 and size.
"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from outrider_wire.errors import BundleDamagedError, BundleUnsafeError
from outrider_wire.limits import BUNDLE_FILES, LABELS, MANIFEST_BYTES, MODEL_BYTES, PARTS
from outrider_wire.names import END, Digest, Label, Name

MANIFEST_FILE = "manifest.json"
FILE_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,127}}{END}"

FileName = Annotated[str, Meta(pattern=FILE_PATTERN)]
"""A plain file name: a bundle has no folders, so that no path can lead outside it."""

Precision = Literal["fp32", "fp16", "int8"]


class BundleFile(Struct, kw_only=True, frozen=True):
    """One file beside the manifest."""

    path: FileName
    sha256: Digest
    size: Annotated[int, Meta(ge=0, le=MODEL_BYTES)]
    role: Literal["model", "golden", "task", "tokenizer", "licence", "other"]


class Step(Struct, kw_only=True, frozen=True):
    """One preprocessing step: a name from the table in `outrider_wire.steps`, and its parameters."""

    op: Annotated[str, Meta(max_length=64)]
    args: dict[str, Any] = {}


class ModelInput(Struct, kw_only=True, frozen=True):
    """How one part of the input becomes one tensor of the model."""

    part: Name
    tensor: Annotated[str, Meta(max_length=128)]
    steps: Annotated[list[Step], Meta(min_length=1, max_length=32)]
    shape: Annotated[list[int], Meta(max_length=8)]
    """Shape of one example, without the batch axis."""


class Outputs(Struct, kw_only=True, frozen=True):
    """Names of the model's output tensors: ``logits`` (batch, labels); ``support`` (batch,), a distance from what the model knows."""

    logits: str = "logits"
    support: str | None = None
    embedding: str | None = None


class Variant(Struct, kw_only=True, frozen=True):
    """The same model at one precision; every execution provider that runs it is named when it is certified."""

    name: Name
    file: FileName
    precision: Precision
    provider: str = "CPUExecutionProvider"
    parity: dict[str, float] = {}
    """Against fp32 on real inputs: ``max_abs``, ``mean_abs``, ``agreement``, ``accuracy``."""


class Calibration(Struct, kw_only=True, frozen=True):
    """Temperature scaling (Guo et al. 2017, arXiv 1706.04599): probabilities = softmax(logits / temperature)."""

    temperature: Annotated[float, Meta(gt=0)]
    method: Literal["temperature"] = "temperature"
    n: int = 0
    """Tuning rows that it was fitted on."""


class Acceptance(Struct, kw_only=True, frozen=True):
    """The rule that decides what stays on the device, certified as a whole."""

    score: Literal["max_probability"] = "max_probability"
    threshold: float | None = None
    """Kept when score ≥ threshold. None: nothing is certified, everything escalates."""
    support_threshold: float | None = None
    """Kept only when the support distance is at most this. None: the model exports no support."""


class Certificate(Struct, kw_only=True, frozen=True):
    """P(selective risk of the acceptance rule ≤ risk) ≥ 1 − delta, by fixed-sequence testing (arXiv 2110.01052).

    It is a claim about one (model, preprocessing, calibration, rule, provider, precision) and one distribution: `binding`
    is the digest of all of them, and a certificate whose binding differs from its bundle's is void.
    """

    method: Literal["fixed-sequence"]
    risk: float
    delta: float
    n: int
    """Certification rows, one a group."""
    accepted: int
    errors: int
    coverage: float
    """accepted / n."""
    risk_bound: float
    """Clopper–Pearson upper bound of the risk at ``delta`` for the accepted rows."""
    label_source: Literal["ground_truth", "large_model"]
    data_digest: Digest
    """Over the sorted group ids of the certification rows."""
    provider: str
    precision: Precision
    binding: Digest

    @property
    def id(self) -> str:
        """Short name of the certificate: what an answer cites."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Manifest(Struct, kw_only=True, frozen=True):
    """Everything a device must know of a release, without a network and without torch."""

    task: Name
    version: Annotated[str, Meta(min_length=1, max_length=128)]
    labels: Annotated[list[Label], Meta(min_length=2, max_length=LABELS)]
    inputs: Annotated[list[ModelInput], Meta(min_length=1, max_length=PARTS)]
    outputs: Outputs
    files: Annotated[list[BundleFile], Meta(min_length=1, max_length=BUNDLE_FILES)]
    variants: Annotated[list[Variant], Meta(min_length=1, max_length=16)]
    """In order of preference: the first is what runs unless a profile chooses."""
    calibration: Calibration
    acceptance: Acceptance
    certificate: Certificate | None = None
    golden: FileName | None = None
    golden_tolerance: float = 1e-2
    """Largest absolute difference of a logit between a golden output and the device's."""
    parent: Digest | None = None
    """The bundle whose model this one was trained from."""
    architecture: str = ""
    """Name in the student table, or module:attribute."""
    provenance: dict[str, str] = {}
    schema: Literal[1] = 1

    def file(self, path: str) -> BundleFile | None:
        """The entry of that file."""
        return next((entry for entry in self.files if entry.path == path), None)

    def binding(self, variant: Variant) -> str:
        """Digest of everything a certificate is a claim about, for one variant."""
        model = self.file(variant.file)
        claim = [
            model.sha256 if model else "",
            self.inputs,
            self.labels,
            self.outputs,
            self.calibration,
            self.acceptance,
            variant.provider,
            variant.precision,
        ]
        return hashlib.sha256(msgspec.json.encode(claim, order="deterministic")).hexdigest()

    def certificate_fault(self, variant: Variant) -> str:
        """Why the certificate may not be claimed for this variant; '' when it may."""
        if self.certificate is None:
            return "the bundle carries no certificate"
        if variant.precision != self.certificate.precision:
            return f"it certifies precision {self.certificate.precision}, and {variant.precision} runs"
        if variant.provider != self.certificate.provider:
            return f"it certifies provider {self.certificate.provider}, and {variant.provider} runs"
        if self.binding(variant) != self.certificate.binding:
            return "the model, its preprocessing, calibration or acceptance rule has changed since it was certified"
        return ""


_DECODER = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: the same manifest gives the same digest everywhere."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def manifest_digest(data: bytes) -> str:
    """The bundle's digest: SHA-256 of its manifest's bytes."""
    return hashlib.sha256(data).hexdigest()


def decode_manifest(data: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises:
        BundleDamagedError: not a manifest, or one that contradicts itself.
        BundleUnsafeError: it names a file outside the bundle.
    """
    if len(data) > MANIFEST_BYTES:
        raise BundleDamagedError(
            f"the manifest has {len(data)} bytes, more than {MANIFEST_BYTES}", reason="manifest_too_large"
        )
    try:
        manifest = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        if repr(FILE_PATTERN) in str(error):
            raise BundleUnsafeError(
                "the manifest names a file that is not a plain name inside the bundle",
                reason="path_outside_bundle",
                fix="do not install it; tell whoever made it",
            ) from error
        raise BundleDamagedError(
            f"the manifest does not parse: {error}", reason="manifest_unparsable", fix="fetch or build the bundle again"
        ) from error
    _check_references(manifest)
    return manifest


def _check_references(manifest: Manifest) -> None:
    named = {entry.path for entry in manifest.files}
    if len(named) != len(manifest.files) or MANIFEST_FILE in named:
        raise BundleDamagedError("the manifest names a file twice, or itself", reason="manifest_inconsistent")
    missing = {variant.file for variant in manifest.variants} - named
    if manifest.golden and manifest.golden not in named:
        missing.add(manifest.golden)
    if missing:
        raise BundleDamagedError(
            f"the manifest refers to {sorted(missing)[0]!r}, which it does not list",
            reason="manifest_inconsistent",
            fix="build the bundle again",
        )
