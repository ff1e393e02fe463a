"""A model that answers: a bundle's declared preprocessing, its ONNX model and its calibration. Decides nothing about the answer."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_engine.bundle import Bundle, open_bundle
from outrider_engine.session import OrtSession, Session
from outrider_engine.tokenizing import encoders_of
from outrider_engine.walk import walk
from outrider_wire.acceptance import Verdict, judge
from outrider_wire.calibration import calibrated
from outrider_wire.errors import BundleMismatchError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.manifest import ModelInput, Variant
from outrider_wire.steps import Preparer
from outrider_wire.strata import stratum_of
from outrider_wire.task import InputPart

Example = Mapping[str, NDArray[Any]]
"""One input's tensors by name, without the batch axis."""


class Inference(NamedTuple):
    """What the model says of one example."""

    logits: NDArray[Any]
    """(labels,), as the model gave them."""
    probabilities: NDArray[np.float64]
    """(labels,), calibrated, in the order of the manifest's labels."""
    support: float | None
    """Distance from what the model knows; None: it exports none. Infinite where a part of the input left no trace in its
    tensor (a question in another script). May be NaN. No acceptance rule accepts what is not finite."""
    deferral: float | None = None
    """The learned score; None: the model gives none."""
    unread: tuple[str, ...] = ()
    """The parts of which nothing reached the model."""
    embedding: NDArray[Any] | None = None
    """(d,), of the parts that the manifest names; None: it exports none. May hold NaN."""


class Model:
    """A bundle's model, ready to answer. Made by `load_model`; safe to call from one thread at a time."""

    def __init__(
        self,
        *,
        bundle: Bundle,
        session: Session,
        variant: Variant,
        bounds: Sequence[InputPart] = (),
        decode: Decode = decode_picture,
    ) -> None:
        self.manifest = bundle.manifest
        self.bundle = bundle
        self.digest = bundle.digest
        self.labels = bundle.manifest.labels
        self.variant = msgspec.structs.replace(variant, provider=session.provider)
        """The variant with the provider that really runs it."""
        self.certified = self.manifest.certificate_fault(self.variant)
        """Why no certificate may be claimed for what runs here; '' when one may."""
        certificate = self.manifest.certificate
        self.certificate_id = certificate.id if certificate is not None and not self.certified else ""
        """The certificate that may be claimed; '' without one."""
        self._session = session
        self.encoders = encoders_of(self.manifest.inputs, bundle.read)
        """What each tokenizer file of the bundle does to a text."""
        self._preparer = Preparer(self.manifest.inputs, bounds=bounds, decode=decode, encoders=self.encoders)
        self._tensors = [entry.tensor for entry in self.manifest.inputs]
        self._one_by_one = any(fact.shape and fact.shape[0] == 1 for fact in session.inputs)

    def prepare(self, parts: Mapping[str, bytes | str]) -> dict[str, NDArray[Any]]:
        """One input's tensors, by the steps that the manifest declares.

        Raises:
            CallerInputError: a part is missing, extra, damaged, of the wrong type or too large.
        """
        return self._preparer.prepare(parts)

    def infer(self, batch: Sequence[Example]) -> list[Inference]:
        """One inference an example, in their order.

        Raises:
            BundleMismatchError: the model fails, or gives NaN, infinity or another shape than its labels need.
        """
        if len(batch) > 1 and self._one_by_one:
            return [inference for example in batch for inference in self.infer([example])]
        if len(batch) == 1:
            feeds = {name: batch[0][name][None] for name in self._tensors}
        elif batch:
            feeds = {name: np.stack([example[name] for example in batch]) for name in self._tensors}
        else:
            return []
        found = self._session.run(feeds)
        logits, support, deferral, embeddings = self._checked(found, len(batch))
        if not np.isfinite(logits).all():
            raise BundleMismatchError(
                "the model gave NaN or infinity", reason="not_finite", fix="roll back to the release before it"
            )
        probabilities = calibrated(logits, self.manifest.calibration)
        unread = [self._preparer.unread(example) for example in batch]
        distances = [math.inf if parts else distance for parts, distance in zip(unread, support, strict=True)]
        return list(map(Inference, logits, probabilities, distances, deferral, unread, embeddings))

    def judge(self, said: Inference, parts: Mapping[str, bytes | str]) -> Verdict:
        """What the bundle's acceptance rule says of an input, from what the model says of it."""
        rule = self.manifest.acceptance
        return judge(
            rule,
            logits=said.logits,
            probabilities=said.probabilities,
            support=said.support,
            deferral=said.deferral,
            stratum=stratum_of(rule.strata, parts),
        )

    def dry_run(self) -> None:
        """One inference on zeros: the model's tensors are the manifest's, in name and shape. Also warms it.

        Raises:
            BundleMismatchError: they are not.
        """
        facts = {fact.name: fact for fact in self._session.inputs}
        if set(facts) != set(self._tensors):
            raise _mismatch(f"the model reads {sorted(facts)}, and the manifest prepares {sorted(self._tensors)}")
        feeds = {entry.tensor: _zeros(entry, facts[entry.tensor].dtype) for entry in self.manifest.inputs}
        self._checked(self._session.run(feeds), 1)

    def _checked(
        self, found: Mapping[str, NDArray[Any]], n: int
    ) -> tuple[NDArray[Any], list[float | None], list[float | None], list[NDArray[Any] | None]]:
        """Logits (n, labels); and a row one support distance, deferral score and embedding, where the model gives them."""
        names = self.manifest.outputs
        logits = found.get(names.logits)
        if logits is None or logits.shape != (n, len(self.labels)):
            have = "no such output" if logits is None else f"one of shape {logits.shape}"
            raise _mismatch(f"output {names.logits!r} should be of shape {(n, len(self.labels))}, and there is {have}")
        return (
            logits,
            _one_a_row(found, names.support, n),
            _one_a_row(found, names.deferral, n),
            _embeddings(found, names.embedding, n),
        )


def _one_a_row(found: Mapping[str, NDArray[Any]], name: str | None, n: int) -> list[float | None]:
    if name is None:
        return [None] * n
    values = found.get(name)
    if values is None or values.size != n:
        raise _mismatch(f"output {name!r} should hold one number an example")
    numbers: list[float | None] = values.reshape(n).tolist()
    return numbers


def _embeddings(found: Mapping[str, NDArray[Any]], name: str | None, n: int) -> list[NDArray[Any] | None]:
    if name is None:
        return [None] * n
    rows = found.get(name)
    if rows is None or rows.ndim != 2 or len(rows) != n:
        raise _mismatch(f"output {name!r} should hold one row of numbers an example")
    return list(rows)


def load_model(
    bundle: Bundle | Path,
    *,
    threads: int = 1,
    providers: Sequence[str] | None = None,
    variant: str | None = None,
    bounds: Sequence[InputPart] = (),
    decode: Decode = decode_picture,
    optimise: bool = True,
) -> Model:
    """Opens and verifies a bundle (or takes a verified one), walks its model, loads it, and runs it once on zeros.

    Args:
        bundle: a bundle, or the directory of one.
        threads: threads within one operator.
        providers: execution providers in order of preference; None: the one that the variant names.
        variant: name of the variant; None: the manifest's first.
        bounds: the task's bounds on each part, checked before decoding.
        decode: what turns pictures into pixels; `outrider_engine.decoder.PictureDecoder` for those of strangers.
        optimise: False leaves the graph as it is, for a first look at one that is not trusted yet.

    Raises:
        BundleError: the bundle is damaged, unsafe, or does not fit this runtime.
        OperatorSetupError: there is not exactly one ONNX Runtime here, or it lacks the provider.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    chosen = opened.variant(variant)
    data = opened.read(chosen.file)
    walk(data)
    session = OrtSession(data, threads=threads, providers=providers or (chosen.provider,), optimise=optimise)
    model = Model(bundle=opened, session=session, variant=chosen, bounds=bounds, decode=decode)
    model.dry_run()
    return model


def _zeros(entry: ModelInput, dtype: str) -> NDArray[Any]:
    try:
        return np.zeros((1, *entry.shape), dtype=dtype)
    except (TypeError, ValueError, MemoryError) as error:
        raise _mismatch(f"tensor {entry.tensor!r} of shape {entry.shape} and type {dtype!r} cannot be made") from error


def _mismatch(what: str) -> BundleMismatchError:
    return BundleMismatchError(what, reason="model_mismatch", fix="build the bundle again")
