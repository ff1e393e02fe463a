"""A certificate made anew for what runs here, by replaying the items that it was made with. Trains nothing and chooses nothing.

A certificate holds for one provider and one precision (DESIGN §8): a new engine rounds otherwise, and may answer otherwise near a
threshold. A bundle may carry its certification items, and the sequence of thresholds that was tested on them. The whole sequence is
tested again with the new engine's answers, at the same δ, thresholds and order, none of which the engine had a say in: what passes is the
same fixed-sequence test (`outrider_wire.certificate`), so that the promise is as good as the first. A single look at the final threshold
would not be: which threshold is final was read off the answers of the other provider.

What is promised of the system as a whole (with the large model) is not replayed, and not claimed.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from outrider_engine.model import Inference, Model
from outrider_wire.acceptance import Signals, accepted, supported_scores
from outrider_wire.certificate import Outcome, fixed_sequence
from outrider_wire.errors import BundleDamagedError, OutriderError
from outrider_wire.groups import data_digest
from outrider_wire.limits import PARTS
from outrider_wire.manifest import Certificate, StratumClaim
from outrider_wire.strata import OTHER, stratum_of

REPLAY_FILE = "certification.msgpack"
"""Name in the bundle."""
MAX_ITEMS = 20_000
_BATCH = 32


class Item(Struct, frozen=True):
    """One certification row: the input as a device would receive it (text as UTF-8), what is right, and what it hangs together with."""

    parts: Annotated[dict[str, bytes], Meta(max_length=PARTS)]
    label: int
    group: str


class TestedSteps(Struct, kw_only=True, frozen=True):
    """What was tested of one stratum ('' where the task has none), from the strictest threshold to the one that was kept."""

    stratum: str
    delta: float
    """Its part of δ."""
    thresholds: list[float]
    coverages: list[float]


class Items(Struct, kw_only=True, frozen=True):
    """The file."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_ITEMS)]
    sequences: Annotated[list[TestedSteps], Meta(min_length=1, max_length=256)]


_DECODER = msgspec.msgpack.Decoder(Items)


class Replayed(Struct, kw_only=True, frozen=True):
    """What came of a replay."""

    certificate: Certificate | None = None
    """Holds for what ran; None: nothing may be claimed."""
    why: str = ""
    """Why not."""


def encode_items(items: Items) -> bytes:
    """The file's bytes; the same items give the same."""
    return msgspec.msgpack.encode(items, order="deterministic")


def decode_items(data: bytes) -> Items:
    """The items of a file.

    Raises:
        BundleDamagedError: it does not parse, or holds none or too many.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BundleDamagedError(
            f"the certification items do not parse: {error}", reason="items_unparsable", fix="build the bundle again"
        ) from error


def replay(model: Model) -> Replayed:
    """Replays a bundle's certification items on what runs it here, one after the other as inputs come; takes a while."""
    certificate, manifest = model.manifest.certificate, model.manifest
    if certificate is None:
        return Replayed(why="the bundle carries no certificate")
    if manifest.file(REPLAY_FILE) is None:
        return Replayed(why="the bundle does not carry its certification items, so that they cannot be replayed here")
    try:
        items = decode_items(model.bundle.read(REPLAY_FILE))
        if data_digest([item.group for item in items.items]) != certificate.data_digest:
            return Replayed(why="the items in the bundle are not those that its certificate was made with")
        return _tested(model, items, certificate)
    except OutriderError as error:
        return Replayed(why=f"the certification items cannot be replayed: {error.what}")
    except ValueError as error:
        return Replayed(why=f"the certification items do not hang together: {error}")


def _tested(model: Model, items: Items, certificate: Certificate) -> Replayed:
    rule, rows = model.manifest.acceptance, items.items
    signals = _signals(model, rows)
    right = signals.probabilities.argmax(axis=1) == np.asarray([row.label for row in rows])
    scores, names = supported_scores(rule, signals), np.asarray(signals.strata, np.str_)
    outcomes: dict[str, Outcome] = {}
    for tested in items.sequences:
        places = np.flatnonzero(names == tested.stratum).tolist()
        outcome = outcomes[tested.stratum] = fixed_sequence(
            scores[places],
            right[places],
            tested.thresholds,
            certificate.risk,
            tested.delta,
            coverages=tested.coverages,
            groups=[rows[place].group for place in places],
        )
        wanted = rule.threshold_of(tested.stratum)
        if outcome.threshold != wanted:
            where = f" of {tested.stratum}" if tested.stratum else ""
            return Replayed(
                why=f"replayed here, the items{where} do not bear out the threshold {wanted:.6g}: "
                f"{outcome.tested[-1].errors if outcome.tested else 0} errors of {outcome.accepted}"
            )
    missing = _untested(model, outcomes)
    if missing:
        return Replayed(why=f"the bundle names no tests of {missing}")
    if sum(part.delta for part in items.sequences) > certificate.delta * (1 + 1e-9):
        return Replayed(why="the tests in the bundle spend more confidence than its certificate says")
    return Replayed(certificate=_certificate(model, certificate, outcomes, accepted(rule, signals), right))


def _untested(model: Model, outcomes: Mapping[str, Outcome]) -> str:
    """A stratum that the rule keeps something of, and that was not tested; '' when there is none."""
    rule = model.manifest.acceptance
    kept = {each.name for each in rule.strata if each.threshold is not None}
    left = sorted(kept - outcomes.keys())
    if rule.threshold is not None and not {"", OTHER} & outcomes.keys():
        left.append("what no stratum matches" if rule.strata else "the rule")
    return left[0] if left else ""


def _signals(model: Model, rows: Sequence[Item]) -> Signals:
    found: list[Inference] = []
    for start in range(0, len(rows), _BATCH):
        found += model.infer([model.prepare(row.parts) for row in rows[start : start + _BATCH]])
    support = [each.support for each in found]
    known = any(each is not None for each in support)  # without such an output too, where a part left no trace
    deferral = [each.deferral for each in found if each.deferral is not None]
    strata = model.manifest.acceptance.strata
    return Signals(
        logits=np.stack([each.logits for each in found]).astype(np.float64),
        probabilities=np.stack([each.probabilities for each in found]),
        support=np.array([0.0 if each is None else each for each in support]) if known else None,
        deferral=np.array(deferral) if len(deferral) == len(found) else None,
        strata=[stratum_of(strata, row.parts) for row in rows] if strata else [""] * len(rows),
    )


def _certificate(
    model: Model,
    before: Certificate,
    outcomes: Mapping[str, Outcome],
    kept: NDArray[np.bool_],
    right: NDArray[np.bool_],
) -> Certificate:
    """The same claim, of what ran here and with its figures; nothing of the system as a whole."""
    return msgspec.structs.replace(
        before,
        accepted=int(kept.sum()),
        errors=int((kept & ~right).sum()),
        coverage=float(kept.mean()),
        risk_bound=max(outcome.risk_bound for outcome in outcomes.values()),
        provider=model.variant.provider,
        precision=model.variant.precision,
        strata=[
            StratumClaim(
                name=name,
                n=outcome.n,
                accepted=outcome.accepted,
                errors=outcome.errors,
                coverage=outcome.coverage,
                risk_bound=outcome.risk_bound,
            )
            for name, outcome in outcomes.items()
            if name
        ],
        system=None,
        large_error=None,
    )
