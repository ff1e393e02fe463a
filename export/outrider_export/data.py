"""Labelled rows in columns: every distinct part value is kept and prepared once, rows index it. Reads no files.

Forty thousand questions about four thousand images are four thousand images, some hundred texts, and indices.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.groups import one_per_group, some_per_group
from outrider_wire.manifest import ModelInput
from outrider_wire.step import Encode
from outrider_wire.steps import Preparer
from outrider_wire.strata import Stratum, stratum_of
from outrider_wire.task import FACTS_PART, InputPart

UNLABELLED = -1
"""Label of a row that nobody has labelled."""

PartValue = bytes | str
Progress = Callable[[str, float], None]
"""Told what is being done and which share of it is done, 0 to 1."""


@dataclass(frozen=True)
class Example:
    """One input with its answer."""

    parts: Mapping[str, PartValue]
    label: int
    """Index into the task's labels, or `UNLABELLED`."""
    group: str
    """What this row is correlated with (clip, event, image): one data role a group."""


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """A table prepared for one model: what the declared steps made of it."""

    values: Mapping[str, NDArray[np.generic]]
    """Tensor → its distinct values (unique, *shape), in the order of the model's inputs."""
    index: Mapping[str, NDArray[np.int64]]
    """Tensor → row → position in `values`."""
    labels: NDArray[np.int64]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lead(self) -> str:
        """The first input's tensor: what training batches are drawn by, and what an image-text student encodes once."""
        return next(iter(self.values))

    def batch(self, rows: NDArray[np.int64] | slice) -> dict[str, NDArray[np.generic]]:
        """Feeds of these rows, with a batch axis."""
        return {tensor: self.values[tensor][self.index[tensor][rows]] for tensor in self.values}

    def batches(self, size: int) -> Iterable[dict[str, NDArray[np.generic]]]:
        """All rows in order, at most ``size`` at a time."""
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))

    def take(self, rows: NDArray[np.int64]) -> "Tensors":
        """These rows; the values are shared, not copied."""
        return replace(
            self,
            index={tensor: index[rows] for tensor, index in self.index.items()},
            labels=self.labels[rows],
            groups=[self.groups[row] for row in rows],
        )


class Table:
    """Rows of a task's data set. Immutable; `take` shares the values."""

    def __init__(
        self,
        *,
        values: Mapping[str, Sequence[PartValue]],
        index: Mapping[str, NDArray[np.int64]],
        labels: NDArray[np.int64],
        groups: Sequence[str],
    ) -> None:
        self.values = values
        self.index = index
        self.labels = labels
        self.groups = groups

    @classmethod
    def from_examples(cls, examples: Iterable[Example]) -> "Table":
        """A table of these rows; equal part values are kept once.

        Raises:
            OperatorConfigError: there are no rows, or they do not all have the same parts.
        """
        places: dict[str, dict[PartValue, int]] = {}
        index: dict[str, list[int]] = {}
        labels, groups = [], []
        for row, example in enumerate(examples):
            if row == 0:
                places, index = {part: {} for part in example.parts}, {part: [] for part in example.parts}
            if example.parts.keys() != index.keys():
                raise OperatorConfigError(
                    f"row {row} has the parts {sorted(example.parts)}, the first row has {sorted(index)}",
                    reason="uneven_rows",
                    fix="give every row the same parts",
                )
            for part, value in example.parts.items():
                index[part].append(places[part].setdefault(value, len(places[part])))
            labels.append(example.label)
            groups.append(example.group)
        if not labels:
            raise OperatorConfigError("the data set has no rows", reason="no_rows", fix="point --data at labelled data")
        return cls(
            values={part: list(known) for part, known in places.items()},
            index={part: np.asarray(rows, np.int64) for part, rows in index.items()},
            labels=np.asarray(labels, np.int64),
            groups=groups,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, row: int) -> dict[str, PartValue]:
        """The parts of one row, as an application would submit them."""
        return {part: self.values[part][self.index[part][row]] for part in self.values}

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> "Table":
        """These rows, in this order."""
        rows = np.asarray(rows, np.int64)
        return Table(
            values=self.values,
            index={part: index[rows] for part, index in self.index.items()},
            labels=self.labels[rows],
            groups=[self.groups[row] for row in rows],
        )

    def strata(self, strata: Sequence[Stratum]) -> list[str]:
        """The stratum of each row; empty without strata."""
        if not strata:
            return []
        parts = [part for part in self.values if any(stratum.part == part for stratum in strata)]
        places = zip(*(self.index[part].tolist() for part in parts), strict=True) if parts else [()] * len(self)
        known: dict[tuple[int, ...], str] = {}
        found = []
        for place in places:
            if place not in known:
                values = {part: self.values[part][at] for part, at in zip(parts, place, strict=True)}
                known[place] = stratum_of(strata, values)
            found.append(known[place])
        return found

    def some_per_group(self, key: str, most: int) -> "Table":
        """At most ``most`` rows of every group, chosen by the keyed hash."""
        return self.take(some_per_group(self.groups, key, most))

    def one_per_group(self, key: str) -> "Table":
        """One row of every group, chosen by the keyed hash: what may be calibrated and certified on."""
        return self.take(one_per_group(self.groups, key))

    def tensors(
        self,
        inputs: Sequence[ModelInput],
        bounds: Sequence[InputPart] = (),
        progress: Progress | None = None,
        *,
        encoders: Mapping[str, Encode] | None = None,
    ) -> Tensors:
        """What the declared steps make of the rows; each distinct value that a row uses is prepared once.

        ``encoders``: what each tokenizer file that the steps name does to a text.

        Raises:
            CallerInputError: a value that a device would refuse; the sentence names the group of a row that has it.
        """
        if FACTS_PART not in self.values and any(entry.part == FACTS_PART for entry in inputs):
            return self._untold().tensors(inputs, bounds, progress, encoders=encoders)
        values: dict[str, NDArray[np.generic]] = {}
        index: dict[str, NDArray[np.int64]] = {}
        needed = list(dict.fromkeys(entry.part for entry in inputs))
        for done, part in enumerate(needed):
            if part not in self.values:
                raise CallerInputError(
                    f"the rows have no part {part!r}, which the model reads", reason="missing_part", part=part
                )
            own = [entry for entry in inputs if entry.part == part]
            prepared, places = self._prepare(part, own, [bound for bound in bounds if bound.name == part], encoders)
            values |= prepared
            index |= {entry.tensor: places for entry in own}
            if progress is not None:
                progress("preparing", (done + 1) / len(needed))
        order = [entry.tensor for entry in inputs]
        return Tensors(
            values={tensor: values[tensor] for tensor in order},
            index={tensor: index[tensor] for tensor in order},
            labels=self.labels,
            groups=self.groups,
        )

    def _untold(self) -> "Table":
        """The same rows, of which no sub-task is answered: what a model that reads facts gets of rows without them."""
        return Table(
            values={**self.values, FACTS_PART: [b"[]"]},
            index={**self.index, FACTS_PART: np.zeros(len(self), np.int64)},
            labels=self.labels,
            groups=self.groups,
        )

    def _prepare(
        self,
        part: str,
        inputs: Sequence[ModelInput],
        bounds: Sequence[InputPart],
        encoders: Mapping[str, Encode] | None,
    ) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.int64]]:
        used, places = np.unique(self.index[part], return_inverse=True)
        preparer = Preparer(inputs, bounds=bounds, encoders=encoders)
        arrays: dict[str, list[NDArray[np.generic]]] = {entry.tensor: [] for entry in inputs}
        for position in used:
            try:
                made = preparer.prepare({part: self.values[part][position]})
            except CallerInputError as error:
                group = self.groups[int(np.argmax(self.index[part] == position))]
                raise CallerInputError(
                    f"{group}: {error.what}", reason=error.reason, fix=error.fix, part=error.part
                ) from error
            for tensor, array in made.items():
                arrays[tensor].append(array)
        return {tensor: np.stack(rows) for tensor, rows in arrays.items()}, places.astype(np.int64)
