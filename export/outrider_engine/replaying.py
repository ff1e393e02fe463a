"""A bundle's certification items put to whatever runs it now, a few at a time. Knows no threads and no clock; claims nothing itself.

What comes of it is for `outrider_wire.replay` to rule; `outrider_engine.model.Model.claiming` then makes the model that claims.
"""

import numpy as np

from outrider_engine.items import CertificationItems
from outrider_engine.model import Inference, Model
from outrider_wire.acceptance import Signals
from outrider_wire.errors import BundleMismatchError
from outrider_wire.replay import Replayed, replay

CHUNK = 8
"""Items that a step answers: a live input waits for no more. One after another, as a device answers: some models (dynamic INT8) give a
row other numbers in a batch than alone."""


class Replaying:
    """One replay under way; used by whoever may use the model.

    Args:
        model: what is to claim the bundle's certificate.
        items: the bundle's.

    Raises:
        BundleMismatchError: there is no certificate that a replay could renew, or the items are of another (``certification_mismatch``).
    """

    def __init__(self, model: Model, items: CertificationItems) -> None:
        certificate, fault = model.manifest.certificate, model.manifest.replay_fault(model.variant)
        if certificate is None or fault:
            raise BundleMismatchError(fault, reason="certificate_void", fix="certify the bundle again")
        if items.certificate != certificate.id:
            raise BundleMismatchError(
                f"the items made certificate {items.certificate}, and the bundle carries {certificate.id}",
                reason="certification_mismatch",
                fix="export the bundle again with its items",
            )
        wanted = {entry.tensor for entry in model.manifest.inputs}
        if items.tensors != wanted:
            raise BundleMismatchError(
                f"the items hold the tensors {', '.join(sorted(items.tensors))}, and the model reads {', '.join(sorted(wanted))}",
                reason="certification_mismatch",
                fix="export the bundle again with its items",
            )
        self._model = model
        self._items = items
        self._certificate = certificate
        self._said: list[Inference] = []

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return len(self._said) / len(self._items)

    def step(self) -> bool:
        """Puts the next few items to the model; whether there are more.

        Raises:
            BundleMismatchError: the model fails.
        """
        at = len(self._said)
        for example in self._items.examples(at, at + CHUNK):
            self._said += self._model.infer([example])
        return len(self._said) < len(self._items)

    def ended(self, k: int) -> Replayed:
        """What may be claimed, as the ``k``-th use of the items; errors as `outrider_wire.replay.replay`."""
        return replay(self._model.manifest.acceptance, self._certificate, self._items.rows, signals(self._said), k=k)


def signals(said: list[Inference]) -> Signals:
    """Inferences in columns, as an acceptance rule looks at them."""
    support = [each.support for each in said]
    deferral = [each.deferral for each in said if each.deferral is not None]
    known = any(each is not None for each in support)
    return Signals(
        np.stack([each.logits for each in said]).astype(np.float64),
        np.stack([each.probabilities for each in said]),
        np.array([0.0 if each is None else each for each in support]) if known else None,
        np.array(deferral) if len(deferral) == len(said) else None,
    )
