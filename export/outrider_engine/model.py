"""A model that answers: a bundle's declared preprocessing, its ONNX model and its calibration. Decides nothing about the answer."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_engine.bundle import Bundle, open_bundle
from outrider_engine.resident import Residents
from outrider_engine.session import PLAIN, OrtSession, RunOptions, Session
from outrider_engine.tokenizing import encoders_of
from outrider_engine.walk import walk
from outrider_wire.acceptance import Verdict, judge
from outrider_wire.calibration import calibrator
from outrider_wire.errors import BundleMismatchError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.manifest import ModelInput, Variant
from outrider_wire.replay import Replayed
from outrider_wire.steps import Preparer
from outrider_wire.strata import stratum_of
from outrider_wire.task import InputPart

SHUNT = "shunt"
"""The strategy in which what is sent is answered by the large model alone."""
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
        apart: bool = False,
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
        self.replayed: Replayed | None = None
        """The replay that lets it claim what it does not claim by itself."""
        self._session = session
        self.encoders = encoders_of(self.manifest.inputs, bundle.read)
        """What each tokenizer file of the bundle does to a text."""
        self._preparer = Preparer(self.manifest.inputs, bounds=bounds, decode=decode, encoders=self.encoders)
        self._calibrated = calibrator(self.manifest.calibration)
        self._tensors = [entry.tensor for entry in self.manifest.inputs]
        self.one_by_one = apart or any(fact.shape and fact.shape[0] == 1 for fact in session.inputs)
        """Whether rows are run one after another: it takes no more at once, or gives a row other numbers beside others."""

    def claiming(self, replayed: Replayed) -> "Model":
        """The same model, under what its replay of the certification items lets it claim.

        Raises:
            ValueError: nothing.
        """
        certificate = self.manifest.certificate
        if replayed.rule is None or certificate is None:
            raise ValueError("nothing may be claimed")
        system = certificate.system
        if system is not None and not (replayed.identical and system.strategy == SHUNT):
            certificate = msgspec.structs.replace(
                certificate, system=None
            )  # the large model's answers were not replayed
        found = copy(self)
        found.manifest = msgspec.structs.replace(self.manifest, acceptance=replayed.rule, certificate=certificate)
        found.certified = ""
        found.certificate_id = self.manifest.certificate.id if self.manifest.certificate else ""
        found.replayed = replayed
        found.one_by_one = True  # as the items were answered: a GPU's kernels are chosen by the size of the batch
        return found

    @property
    def resident(self) -> bool:
        """Whether it is in memory now; one that is not is loaded first, which takes longer than an answer."""
        return getattr(self._session, "resident", True)

    @property
    def session(self) -> Session:
        """What runs it."""
        return self._session

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
        if len(batch) < 2 or self.one_by_one:
            return [self._infer_one(example) for example in batch]
        found = self._session.run({name: np.stack([example[name] for example in batch]) for name in self._tensors})
        logits, support, deferral, embeddings = self._checked(found, len(batch))
        if not np.isfinite(logits).all():
            raise _not_finite()
        probabilities = self._calibrated(logits)
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

    def dry_run(self, rows: int = 1) -> None:
        """One inference on zeros: the model's tensors are the manifest's, in name and shape. Also warms it.

        ``rows`` at once; more than 1 only where it is not `one_by_one`.

        Raises:
            BundleMismatchError: they are not.
        """
        facts = {fact.name: fact for fact in self._session.inputs}
        if set(facts) != set(self._tensors):
            raise _mismatch(f"the model reads {sorted(facts)}, and the manifest prepares {sorted(self._tensors)}")
        feeds = {entry.tensor: _zeros(entry, facts[entry.tensor].dtype, rows) for entry in self.manifest.inputs}
        self._checked(self._session.run(feeds), rows)

    def _infer_one(self, example: Example) -> Inference:
        """`infer` of one example: the same to the last bit, without what only rows need."""
        found = self._session.run({name: example[name][None] for name in self._tensors})
        [logits], [support], [deferral], [embedding] = self._checked(found, 1)
        if not all(map(math.isfinite, logits.tolist())):
            raise _not_finite()
        unread = self._preparer.unread(example)
        distance = math.inf if unread else support
        return Inference(logits, self._calibrated(logits), distance, deferral, unread, embedding)

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


def _not_finite() -> BundleMismatchError:
    return BundleMismatchError(
        "the model gave NaN or infinity", reason="not_finite", fix="roll back to the release before it"
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
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    options: RunOptions = PLAIN,
    variant: str | None = None,
    bounds: Sequence[InputPart] = (),
    decode: Decode = decode_picture,
    optimise: bool = True,
    residents: Residents | None = None,
) -> Model:
    """Opens and verifies a bundle (or takes a verified one), walks its model, loads it, and runs it once on zeros.

    Args:
        bundle: a bundle, or the directory of one.
        threads: threads within one operator; None: as ``options`` says.
        providers: execution providers in order of preference; None: the one that the variant names.
        options: how ONNX Runtime runs it.
        variant: name of the variant; None: the manifest's first.
        bounds: the task's bounds on each part, checked before decoding.
        decode: what turns pictures into pixels; `outrider_engine.decoder.PictureDecoder` for those of strangers.
        optimise: False leaves the graph as it is, for a first look at one that is not trusted yet.
        residents: the bound of memory that it shares with others, under which it may be let go between two inputs.

    Raises:
        BundleError: the bundle is damaged, unsafe, does not fit this runtime, or is above the bound of memory.
        OperatorSetupError: there is not exactly one ONNX Runtime here, or it lacks the provider.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    chosen = opened.variant(variant)
    data = opened.read(chosen.file)
    walk(data)
    size, apart = len(data), scales_by_batch(data)
    del data
    wanted = replace(options, threads=threads) if threads is not None else options

    def load() -> OrtSession:
        return OrtSession(
            opened.read(chosen.file), providers=providers or (chosen.provider,), optimise=optimise, options=wanted
        )

    name = f"{opened.manifest.task} {opened.manifest.version} ({chosen.name})"
    session = residents.session(name, size, load) if residents is not None else load()
    model = Model(bundle=opened, session=session, variant=chosen, bounds=bounds, decode=decode, apart=apart)
    model.dry_run()
    return model


def scales_by_batch(data: bytes) -> bool:
    """Whether an ONNX model measures its numbers as it runs (``DynamicQuantizeLinear``, one scale for all rows of a batch), so that the
    rows beside it change what is said of one."""
    return b"DynamicQuantizeLinear" in data


def _zeros(entry: ModelInput, dtype: str, rows: int) -> NDArray[Any]:
    try:
        return np.zeros((rows, *entry.shape), dtype=dtype)
    except (TypeError, ValueError, MemoryError) as error:
        raise _mismatch(f"tensor {entry.tensor!r} of shape {entry.shape} and type {dtype!r} cannot be made") from error


def _mismatch(what: str) -> BundleMismatchError:
    return BundleMismatchError(what, reason="model_mismatch", fix="build the bundle again")
