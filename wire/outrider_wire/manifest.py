"""A bundle's manifest: what a release is made of, file by file, and what may be claimed of it. Reads no files.

A bundle is content-addressed: its digest is the SHA-256 of its manifest's bytes, and the manifest names every other file
by SHA-256 and size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from outrider_wire.errors import BundleDamagedError, BundleUnsafeError
from outrider_wire.limits import BUNDLE_FILES, LABELS, MANIFEST_BYTES, MODEL_BYTES, PARTS
from outrider_wire.names import END, Digest, Label, Name
from outrider_wire.scores import ScoreName
from outrider_wire.strata import Stratum

MANIFEST_FILE = "manifest.json"
FILE_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,127}}{END}"

FileName = Annotated[str, Meta(pattern=FILE_PATTERN)]
"""A plain file name: a bundle has no folders, so that no path can lead outside it."""

Precision = Literal["fp32", "fp16", "int8"]
"""What most of a model's arithmetic is done in. Two variants of one precision differ in their recipe, and so in their file."""


class BundleFile(Struct, kw_only=True, frozen=True):
    """One file beside the manifest."""

    path: FileName
    sha256: Digest
    size: Annotated[int, Meta(ge=0, le=MODEL_BYTES)]
    role: Literal["model", "golden", "task", "tokenizer", "licence", "certification", "other"]


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


class Outputs(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Names of the model's output tensors: ``logits`` (batch, labels); ``support`` (batch,), a distance from what the model knows;
    ``deferral`` (batch,), a learned score of how little there is to gain from asking the large model; ``embedding``
    (batch, d), where near inputs lie near, of the parts that `Manifest.embedding_parts` names."""

    logits: str = "logits"
    support: str | None = None
    embedding: str | None = None
    deferral: str | None = None


Sentence = Annotated[str, Meta(max_length=512)]
"""A sentence for people."""


class LeftInFloat(Struct, kw_only=True, frozen=True):
    """A part of a model that its precision does not cover."""

    what: Sentence
    why: Sentence
    operators: Annotated[dict[str, int], Meta(max_length=256)] = {}
    """How many of each kind."""


class Variant(Struct, kw_only=True, frozen=True):
    """The same model at one precision; every execution provider that runs it is named when it is certified."""

    name: Name
    file: FileName
    precision: Precision
    provider: str = "CPUExecutionProvider"
    parity: dict[str, float] = {}
    """Against fp32 on real inputs: ``max_abs``, ``mean_abs``, ``agreement``, ``accuracy``; `outrider_export.parity` has them all."""
    about: Sentence = ""
    """What it is."""
    left_in_float: Annotated[list[LeftInFloat], Meta(max_length=16)] = []
    forced: Sentence = ""
    """Why it would not have shipped, had nobody forced it by name; '' when it is within its tolerance."""


class Calibration(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Temperature or vector scaling (Guo et al. 2017, arXiv 1706.04599): softmax(scale · logits / temperature + bias)."""

    temperature: Annotated[float, Meta(gt=0)]
    method: Literal["temperature", "vector"] = "temperature"
    n: int = 0
    """Tuning rows that it was fitted on."""
    scale: Annotated[list[float], Meta(max_length=LABELS)] = []
    """One a label; empty: all 1."""
    bias: Annotated[list[float], Meta(max_length=LABELS)] = []
    """One a label; empty: all 0."""


class StratumRule(Stratum, kw_only=True, frozen=True):
    """A stratum with the threshold of its own."""

    threshold: float | None = None
    """None: nothing of this stratum is certified, all of it escalates."""


class Acceptance(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The rule that decides what stays on the device, certified as a whole."""

    score: ScoreName = "max_probability"
    threshold: float | None = None
    """Kept when score ≥ threshold. None: nothing is certified, everything escalates; with strata, what no stratum matches."""
    support_threshold: float | None = None
    """Kept only when the support distance is at most this. None: the model exports no support."""
    strata: list[StratumRule] = []
    """Each with its own threshold; the first that matches counts."""
    stricter: float | None = None
    """A threshold that keeps about half as much: what a device may fall back to, uncertified, when the certificate is in doubt."""

    @property
    def keeps_anything(self) -> bool:
        """Whether there is an input that it could keep."""
        return self.threshold is not None or any(each.threshold is not None for each in self.strata)

    def threshold_of(self, stratum: str) -> float | None:
        """The threshold in force for inputs of that stratum."""
        for each in self.strata:
            if each.name == stratum:
                return each.threshold
        return self.threshold


class StratumClaim(Struct, kw_only=True, frozen=True):
    """What was found of one stratum. Nothing is promised of one that accepts nothing."""

    name: Name
    n: int
    accepted: int
    errors: int
    coverage: float
    risk_bound: float


class SystemClaim(Struct, kw_only=True, frozen=True):
    """P(final answer wrong) − P(large model wrong) ≤ gap, proven together with the certificate's own claim."""

    gap: float
    """ε"""
    found: float
    """The difference on the certification rows."""
    large: Annotated[str, Meta(max_length=256)]
    """Name and revision of the large model: another one voids this claim."""
    strategy: Name = "shunt"

    def fault(self, large: str, strategy: str) -> str:
        """Why it may not be claimed of a system in which that large model answers by that strategy; '' when it may."""
        if (large, strategy) == (self.large, self.strategy):
            return ""
        return f"it was certified with {self.large} by {self.strategy}, and {large} answers by {strategy}"


LabelSource = Literal["ground_truth", "large_model"]
CLAIMED: Mapping[str, str] = {
    "model": "the model",
    "preprocessing": "its preprocessing",
    "labels": "its labels",
    "outputs": "the meaning of its outputs",
    "calibration": "its calibration",
    "rule": "its acceptance rule",
}
"""What a certificate is a claim about, part by part, and what a person calls it."""


class Certificate(Struct, kw_only=True, frozen=True):
    """P(selective risk of the acceptance rule ≤ risk) ≥ 1 − delta, by fixed-sequence testing (arXiv 2110.01052).

    It is a claim about one (model, preprocessing, calibration, rule, provider, precision) and one distribution: `claims`
    are the digests of the former, and a certificate is void as soon as one of them is another. With strata, the claim holds
    for each that accepts anything, all together with confidence 1 − delta.
    """

    method: Literal["fixed-sequence", "fixed-sequence-groups", "audits"]
    risk: float
    delta: float
    n: int
    """Certification rows."""
    groups: int
    """Independent groups of them."""
    accepted: int
    errors: int
    coverage: float
    """accepted / n."""
    risk_bound: float
    """Upper bound of the risk at ``delta`` for the accepted rows; of strata, the largest."""
    label_source: LabelSource
    data_digest: Digest
    """Over the sorted group ids of the certification rows."""
    provider: str
    precision: Precision
    claims: dict[Annotated[str, Meta(max_length=32)], Digest]
    """Digest of each part of what it is a claim about, by the names of `CLAIMED`."""
    strata: list[StratumClaim] = []
    system: SystemClaim | None = None
    large_error: float | None = None
    """Upper bound of the large model's error on what is accepted: what audits against its answers must allow for, where the
    labels were the truth."""

    @property
    def id(self) -> str:
        """Short name of the certificate, the same before it is written and after: what an answer cites."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


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
    certification: FileName | None = None
    """The rows that the certificate was made on, for whatever else is to run the bundle; a bundle is whole without that file."""
    parent: Digest | None = None
    """The bundle whose model this one was trained from."""
    architecture: str = ""
    """Name in the student table, or module:attribute."""
    scores: dict[Annotated[str, Meta(max_length=32)], float] = {}
    """Area under the risk–coverage curve of every score on tuning rows, less is better: why the rule uses the one it does."""
    embedding_parts: Annotated[list[Name], Meta(max_length=PARTS)] = []
    """The parts of the input that the embedding stands for; two inputs are alike only if all others are equal."""
    provenance: dict[str, str] = {}
    schema: Literal[1] = 1

    def file(self, path: str) -> BundleFile | None:
        """The entry of that file."""
        return next((entry for entry in self.files if entry.path == path), None)

    @property
    def needed(self) -> list[BundleFile]:
        """The files that a device must have; the others are fetched when they are wanted."""
        return [entry for entry in self.files if entry.role != "certification"]

    def variant_for(self, precisions: Sequence[Precision], provider: str = "") -> Variant:
        """The variant that a device runs.

        Args:
            precisions: in the device's order of preference; empty: as the bundle orders its variants.
            provider: that runs it; '': the one that each variant names.

        Returns:
            In that order the first that may claim the certificate; where none may, the first that there is.
        """
        wanted = [each for precision in precisions for each in self.variants if each.precision == precision]
        if not wanted:
            return self.variants[0]
        run = [msgspec.structs.replace(each, provider=provider or each.provider) for each in wanted]
        return next(
            (each for each, runs in zip(wanted, run, strict=True) if not self.certificate_fault(runs)), wanted[0]
        )

    def claims(self, variant: Variant) -> dict[str, str]:
        """Digest of everything a certificate is a claim about, part by part, for one variant."""
        model = self.file(variant.file)
        parts: dict[str, object] = {
            "model": model.sha256 if model else "",
            "preprocessing": self.inputs,
            "labels": self.labels,
            "outputs": self.outputs,
            "calibration": self.calibration,
            "rule": self.acceptance,
        }
        return {
            name: hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()
            for name, part in parts.items()
        }

    def certificate_fault(self, variant: Variant) -> str:
        """Why the certificate may not be claimed for this variant; '' when it may."""
        certificate = self.certificate
        if certificate is None:
            return "the bundle carries no certificate"
        if variant.precision != certificate.precision:
            return f"it certifies precision {certificate.precision}, and {variant.precision} runs"
        if variant.provider != certificate.provider:
            return f"it certifies provider {certificate.provider}, and {variant.provider} runs"
        return self._changed(certificate, variant, CLAIMED)

    def replay_fault(self, variant: Variant) -> str:
        """Why no replay of the certification items could renew the certificate for this variant; '' when one may."""
        if self.certificate is None:
            return "the bundle carries no certificate"
        if self.certification is None:
            return "the bundle carries no certification items"
        return self._changed(self.certificate, variant, {name: CLAIMED[name] for name in CLAIMED if name != "model"})

    def _changed(self, certificate: Certificate, variant: Variant, parts: Mapping[str, str]) -> str:
        found = self.claims(variant)
        changed = [said for name, said in parts.items() if certificate.claims.get(name) != found[name]]
        return f"{' and '.join(changed)} changed since it was certified" if changed else ""


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
    known = {entry.part for entry in manifest.inputs}
    if bool(manifest.embedding_parts) != (manifest.outputs.embedding is not None) or not known.issuperset(
        manifest.embedding_parts
    ):
        raise BundleDamagedError(
            "the manifest's embedding and the parts that it stands for do not belong together",
            reason="manifest_inconsistent",
            fix="build the bundle again",
        )
    missing = {variant.file for variant in manifest.variants} - named
    if manifest.golden and manifest.golden not in named:
        missing.add(manifest.golden)
    items = [entry.path for entry in manifest.files if entry.role == "certification"]
    if items != ([manifest.certification] if manifest.certification else []):
        raise BundleDamagedError(
            "the manifest's certification items and the file of that role do not belong together",
            reason="manifest_inconsistent",
            fix="build the bundle again",
        )
    if missing:
        raise BundleDamagedError(
            f"the manifest refers to {sorted(missing)[0]!r}, which it does not list",
            reason="manifest_inconsistent",
            fix="build the bundle again",
        )
