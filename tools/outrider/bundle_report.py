"""What there is to say about a bundle, in words and figures. Opens bundles through the engine; prints nothing."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from outrider_engine.bundle import Bundle
from outrider_engine.walk import walk
from outrider_wire.errors import BundleMismatchError
from outrider_wire.manifest import Acceptance, Certificate, Manifest, StratumClaim
from outrider_wire.strata import OTHER


class Verified(Struct, kw_only=True):
    """A bundle in which every byte, operator and claim was checked."""

    bundle: str
    digest: str
    bytes: int
    parameter_bytes: dict[str, int]
    """Variant → bytes of its weights."""
    certified: bool
    claim: str
    """What the certificate says, or why there is none to claim."""
    selftest_ms: float | None = None
    """Median milliseconds of one inference; None: it was not run."""

    @property
    def sentence(self) -> str:
        """All of it in a line."""
        ran = "" if self.selftest_ms is None else f"; self-test passed, {self.selftest_ms:.2f} ms an input"
        return f"✓ {self.bundle}: {self.digest[:12]}…, {size(self.bytes)}; {self.claim}{ran}"


class SettingChange(Struct, kw_only=True):
    """One setting of the manifest that is not the same."""

    name: str
    old: str
    new: str


class FileChange(Struct, kw_only=True):
    """One file, and what became of it."""

    path: str
    change: str
    """``same``, ``changed``, ``added`` or ``removed``."""
    bytes: int


class Difference(Struct, kw_only=True):
    """What differs between two bundles."""

    old: str
    new: str
    settings: list[SettingChange]
    files: list[FileChange]
    fetch_bytes: int
    """What a device that has the old one must fetch, manifest included."""

    @property
    def sentence(self) -> str:
        """All of it in a line."""
        if self.old == self.new:
            return f"the same bundle, {self.old[:12]}…"
        return f"{self.old[:12]}… → {self.new[:12]}…: a device fetches {size(self.fetch_bytes)}"


def document(bundle: Bundle) -> dict[str, Any]:
    """The manifest as JSON, with the digest and what may be claimed."""
    return {
        "digest": bundle.digest,
        "bytes": total_bytes(bundle),
        "claim": claim(bundle.manifest),
        "manifest": msgspec.to_builtins(bundle.manifest),
    }


def headline(bundle: Bundle) -> str:
    """One line."""
    manifest = bundle.manifest
    return f"{manifest.task} {manifest.version} · {bundle.digest} · {size(total_bytes(bundle))}"


def facts(bundle: Bundle) -> list[tuple[str, str]]:
    """What a person wants to know first, as (name, value)."""
    manifest = bundle.manifest
    rule = manifest.acceptance
    kept = f"{rule.score.replace('_', ' ')} ≥ {_thresholds(rule)}" if rule.keeps_anything else "everything escalates"
    known = "" if rule.support_threshold is None else f" and support distance ≤ {rule.support_threshold:.4g}"
    rows = [
        ("labels", f"{len(manifest.labels)}: {_shortened(manifest.labels)}"),
        *((f"input {entry.part}", _input(entry)) for entry in manifest.inputs),
        *((f"variant {each.name}", _variant(manifest, each)) for each in manifest.variants),
        ("calibration", _calibration(manifest)),
        ("kept on the device", kept + known),
        ("certificate", claim(manifest)),
        *((f"  {each.name}", _stratum(each)) for each in (manifest.certificate.strata if manifest.certificate else [])),
        *([("scores, area (less ranks errors better)", _areas(manifest))] if manifest.scores else []),
        ("architecture", manifest.architecture or "not named"),
        ("made from", f"{manifest.parent[:12]}…" if manifest.parent else "nothing before it"),
    ]
    return rows + [(name, value) for name, value in sorted(manifest.provenance.items())]


def files(bundle: Bundle) -> list[tuple[str, str, int, str]]:
    """Every file as (path, role, bytes, SHA-256)."""
    return [(entry.path, entry.role, entry.size, entry.sha256) for entry in bundle.manifest.files]


def verified(path: Path, *, run: bool) -> Verified:
    """Checks a bundle to the last byte and operator; with ``run`` also that it gives its golden answers.

    Raises:
        BundleError: it is damaged, unsafe, or does not do what it says.
    """
    from outrider_engine.bundle import open_bundle

    bundle = open_bundle(path)
    weights = {each.name: walk(bundle.read(each.file)).parameters_bytes for each in bundle.manifest.variants}
    return Verified(
        bundle=str(path),
        digest=bundle.digest,
        bytes=total_bytes(bundle),
        parameter_bytes=weights,
        certified=not bundle.manifest.certificate_fault(bundle.variant()),
        claim=claim(bundle.manifest),
        selftest_ms=_selftest(path) if run else None,
    )


def _selftest(path: Path) -> float:
    from outrider_engine.selftest import run_selftest

    report = run_selftest(path)
    if not report.ok:
        raise BundleMismatchError(
            f"{path} failed its self-test: {report.detail or report.reason}",
            reason=report.reason,
            fix="do not install it; build it again for this runtime",
        )
    return report.ms


def compared(old: Bundle, new: Bundle) -> Difference:
    """What differs, file by file and setting by setting."""
    before = {entry.path: entry for entry in old.manifest.files}
    after = {entry.path: entry for entry in new.manifest.files}
    held = {entry.sha256 for entry in before.values()}
    changes = []
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        entry = other or one
        assert entry is not None  # noqa: S101 - the path came from one of the two
        same = one is not None and other is not None and one.sha256 == other.sha256
        change = "same" if same else "added" if one is None else "removed" if other is None else "changed"
        changes.append(FileChange(path=path, change=change, bytes=entry.size))
    fetched = sum({entry.sha256: entry.size for entry in after.values() if entry.sha256 not in held}.values())
    manifest_bytes = 0 if old.digest == new.digest else (new.root / "manifest.json").stat().st_size
    return Difference(
        old=old.digest,
        new=new.digest,
        settings=_settings(old.manifest, new.manifest),
        files=changes,
        fetch_bytes=fetched + manifest_bytes,
    )


def _settings(old: Manifest, new: Manifest) -> list[SettingChange]:
    changes = []
    for name in Manifest.__struct_fields__:
        one, other = getattr(old, name), getattr(new, name)
        if name != "files" and one != other:
            described = (claim(old), claim(new)) if name == "certificate" else (_brief(one), _brief(other))
            changes.append(SettingChange(name=name, old=described[0], new=described[1]))
    return changes


def claim(manifest: Manifest) -> str:
    """What may be claimed of the variant that runs by default, in one sentence."""
    certificate = manifest.certificate
    fault = manifest.certificate_fault(manifest.variants[0])
    if fault or certificate is None:
        return f"not certified: {fault}"
    return promised(certificate)


def promised(certificate: Certificate) -> str:
    """A certificate in words."""
    return (
        f"certified: at most {certificate.risk:.1%} of what is kept is wrong, with confidence {1 - certificate.delta:.0%} "
        f"({certificate.errors} of {certificate.accepted} kept were wrong among {certificate.n}, bound {certificate.risk_bound:.2%}, "
        f"coverage {certificate.coverage:.0%}, labels: {certificate.label_source.replace('_', ' ')})"
        + _of_the_system(certificate)
    )


def _of_the_system(certificate: Certificate) -> str:
    if certificate.system is None:
        return ""
    system = certificate.system
    return (
        f"; as a system with {system.large} ({system.strategy}) wrong at most {system.gap:.1%} more often than it alone"
    )


def _stratum(claimed: StratumClaim) -> str:
    if not claimed.accepted:
        return f"nothing certified, all of it escalates ({claimed.n} certification rows)"
    return (
        f"{claimed.errors} of {claimed.accepted} kept were wrong among {claimed.n}, bound {claimed.risk_bound:.2%}, "
        f"coverage {claimed.coverage:.0%}"
    )


def _areas(manifest: Manifest) -> str:
    ranked = sorted(manifest.scores.items(), key=lambda item: item[1])
    return ", ".join(f"{name.replace('_', ' ')} {area:.4f}" for name, area in ranked)


def _calibration(manifest: Manifest) -> str:
    found = manifest.calibration
    vector = ", and a scale and a bias a label" if found.method == "vector" else ""
    return f"temperature {found.temperature:.3f}{vector}, from {found.n} rows"


def _thresholds(rule: Acceptance) -> str:
    own = [(each.name, each.threshold) for each in rule.strata]
    named = [*own, (OTHER if own else "", rule.threshold)]
    return ", ".join(f"{'never' if at is None else f'{at:.4f}'}{f' ({name})' if name else ''}" for name, at in named)


def total_bytes(bundle: Bundle) -> int:
    """Bytes of every file but the manifest."""
    return sum(entry.size for entry in bundle.manifest.files)


def size(count: int) -> str:
    """Bytes for a person: 812 B, 53.4 kB, 1.2 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _input(entry: Any) -> str:
    steps = " → ".join(step.op for step in entry.steps)
    return f"{steps} → {entry.tensor} {tuple(entry.shape)}"


def _variant(manifest: Manifest, variant: Any) -> str:
    entry = manifest.file(variant.file)
    parity = ", ".join(f"{name} {value:.4g}" for name, value in variant.parity.items())
    weight = size(entry.size) if entry else ""
    left = ", ".join(each.what for each in variant.left_in_float)
    said = [
        f"{variant.precision} on {variant.provider}, {weight}",
        variant.about,
        f"against fp32: {parity}" if parity else "",
        f"left in floating point: {left}" if left else "",
        f"FORCED: {variant.forced}" if variant.forced else "",
    ]
    return "; ".join(each for each in said if each)


def _shortened(labels: list[str], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _brief(value: Any, most: int = 60) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= most else f"{text[:most]}…"
