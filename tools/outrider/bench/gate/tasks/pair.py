"""A small convolutional net on the device and any net in the cloud, asked about the same captures. Knows no data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from outrider.bench.gate.networks import ConvNet, distance, evaluated
from outrider.bench.gate.rows import Floats, Foreign, Ints, Measured, Rows
from outrider.bench.gate.tasks.base import majority
from outrider_export.support import Known
from outrider_wire.calibration import softmax
from outrider_wire.roles import Role


@dataclass(frozen=True, kw_only=True)
class Captures:
    """What the device took, by row."""

    inputs: Tensor
    """(n, 1, *space)"""
    labels: Ints
    groups: Sequence[str]
    payload_bytes: Ints


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both models, and what the small one knows."""

    small: ConvNet
    large: ConvNet
    known: Sequence[Known]
    glance: Callable[[Tensor], Floats]

    def rows(self, captures: Captures, numbers: Ints) -> Rows:
        """What both say of these rows."""
        inputs = captures.inputs[numbers]
        return Rows(
            small=evaluated(self.small, inputs),
            large=softmax(evaluated(self.large, inputs)),
            labels=captures.labels[numbers],
            groups=np.asarray([captures.groups[number] for number in numbers]),
            payload_bytes=captures.payload_bytes[numbers],
            embedding=evaluated(self.small.embedded, inputs),
            glance=self.glance(inputs),
            support=distance(self.small, self.known, inputs),
        )

    def foreign(self, inputs: Tensor) -> Foreign:
        """What the small one says of inputs from elsewhere."""
        return Foreign(small=evaluated(self.small, inputs), support=distance(self.small, self.known, inputs))

    def measured(self, captures: Captures, roles: Mapping[Role, Ints], strange: Mapping[str, Tensor]) -> Measured:
        """Everything the benchmark wants of this pair."""
        return Measured(
            tuning=self.rows(captures, roles["tuning"]),
            certification=self.rows(captures, roles["certification"]),
            test=self.rows(captures, roles["test"]),
            majority=majority(captures.labels[roles["train"]], captures.labels[roles["test"]]),
            foreign={kind: self.foreign(inputs) for kind, inputs in strange.items()},
        )
