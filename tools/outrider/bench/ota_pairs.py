"""Releases before and after an update: what ``outrider bench ota`` takes deltas between, and what each update is worth. Makes no delta.

The demo's small model is the one before; after it come one round of distillation from the demo's large model that trains every layer,
a small one of the same kind, one that trains the adapters alone, a tuning of the last layer, and the same architecture
trained from other random weights (a far retrain: nothing but the graph is alike). Each is exported as a learning round exports, with
the one before as the release that it takes the place of, and certified on rows of its own.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from outrider.demo.models import SMALL, Models, look, make_models
from outrider.demo.world import QUESTIONS_PLAYED, World, make_world
from outrider.progress import Tell
from outrider_export.beside import checkpoint_path
from outrider_wire.decodable import decodable

if TYPE_CHECKING:
    from torch import nn

    from outrider_export.build import BuildReport
    from outrider_export.data import Table, Tensors
    from outrider_export.distil import Update
    from outrider_export.parents import Parent

PRECISIONS = ("fp32", "fp16", "int8")
CHANGES = ("round", "small-round", "adapters", "last-layer", "retrain")
"""What becomes of the model."""
BEFORE = "before"
_SURE = 0.95
_LAST_LAYER_STEPS = 60
_TEST_QUESTIONS = 2_000


class Worth(Struct, kw_only=True, frozen=True):
    """What a release is worth at INT8, as it ships. Shares of test questions that chose nothing."""

    right: float
    """Answered right by the small model alone."""
    kept: float
    """Kept on the device by the certified rule; 0 where nothing is certified."""
    wrong: float
    """Of these, wrong."""
    certified: bool
    agreement: float
    """With its own fp32, on tuning rows."""
    support: str = ""
    """What became of the parent's support distance."""
    as_parent: bool = False
    """Whether the parent's floating-point layers and scales were kept."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One update."""

    change: str
    precision: str
    before: bytes
    after: bytes

    @property
    def name(self) -> str:
        """``CHANGE PRECISION``."""
        return f"{self.change} {self.precision}"


def make_pairs(folder: Path, *, seed: int, tell: Tell) -> tuple[list[Pair], dict[str, Worth]]:
    """All pairs, and what each release is worth, from ``folder`` if this seed's are there; otherwise trained (minutes) and kept there.

    Raises:
        OperatorSetupError: a library of the extras ``export`` and ``demo`` is absent.
    """
    world = make_world(seed, tell)
    models = make_models(world, folder / "models", tell)
    key = hashlib.sha256(checkpoint_path(models.small).read_bytes() + Path(__file__).read_bytes()).hexdigest()[:8]
    home = folder / "ota" / f"seed-{seed}-{key}"
    whole = home / "worth.json"
    if not whole.is_file():
        home.mkdir(parents=True, exist_ok=True)
        found = _Maker(world, models, home, tell).all()
        whole.write_bytes(msgspec.json.encode(found))
    pairs = [
        Pair(
            change=change,
            precision=precision,
            before=_file(home / BEFORE, precision).read_bytes(),
            after=_file(home / change, precision).read_bytes(),
        )
        for change in CHANGES
        for precision in PRECISIONS
    ]
    return pairs, msgspec.json.decode(whole.read_bytes(), type=decodable(dict[str, Worth]))


def _file(release: Path, precision: str) -> Path:
    return (
        release.with_name(f"{release.name}.fp16.onnx") if precision == "fp16" else release / f"model.{precision}.onnx"
    )


class _Maker:
    def __init__(self, world: World, models: Models, home: Path, tell: Tell) -> None:
        import torch

        from outrider_export.checkpoint import load_checkpoint

        torch.set_num_threads(1)
        self.world, self.models, self.home, self.tell = world, models, home, tell
        self.before, self.architecture = load_checkpoint(checkpoint_path(models.small), world.task)
        self.inputs = self.architecture.inputs(world.task)
        self.labelled = self._tensors(world.deal.labelled)
        self.parent: Parent | None = None

    def all(self) -> dict[str, Worth]:
        """(``before`` or a change) → what it is worth; the files are written."""
        makes: dict[str, Callable[[], nn.Module]] = {
            BEFORE: lambda: self.before,
            "round": lambda: self._distilled(epochs=15, learning_rate=2e-3),
            "small-round": lambda: self._distilled(epochs=1, learning_rate=1e-4),
            "adapters": lambda: self._distilled(epochs=15, learning_rate=2e-3, update="adapters"),
            "last-layer": self._last_layer,
            "retrain": self._retrained,
        }
        found = {}
        for done, (name, make) in enumerate(makes.items()):
            self.tell(f"training: {name}", done / len(makes))
            found[name] = self._released(name, make())
        return found

    def _tensors(self, pictures: tuple[int, ...]) -> "Tensors":
        return self._table(pictures).tensors(self.inputs, self.world.task.inputs)

    def _distilled(self, *, epochs: int, learning_rate: float, update: "Update" = "full") -> "nn.Module":
        """One round, as `outrider_cloud.learning` teaches it."""
        from outrider_export.distil import DistilPlan, Taught, distil

        table = self.world.table(self.world.questions(self.world.deal.stream))
        small, large = look(self.models.small, table), look(self.models.large, table)
        unsure = np.flatnonzero(~small.accepted & (large.probabilities.max(1) >= _SURE))
        sure = np.flatnonzero(small.accepted)
        tensors = table.tensors(self.inputs, self.world.task.inputs)
        return distil(
            self.before,
            unsure=Taught(tensors=tensors.take(unsure), probabilities=large.probabilities[unsure]),
            sure=Taught(tensors=tensors.take(sure), probabilities=small.probabilities[sure]),
            labelled=self.labelled,
            plan=DistilPlan(epochs=epochs, learning_rate=learning_rate, update=update),
            seed=self.world.seed,
        )

    def _last_layer(self) -> "nn.Module":
        """The last linear layer goes on learning from the labelled rows; nothing else moves, batch statistics included."""
        import torch
        from torch.nn import functional

        module = copy.deepcopy(self.before).eval()
        last = [each for each in module.modules() if isinstance(each, torch.nn.Linear)][-1]
        optimiser = torch.optim.AdamW(last.parameters(), 1e-3)
        rng = np.random.default_rng(self.world.seed)
        for _ in range(_LAST_LAYER_STEPS):
            rows = rng.choice(len(self.labelled), 64, replace=False)
            logits = module(*(torch.from_numpy(array) for array in self.labelled.batch(rows).values()))
            loss = functional.cross_entropy(logits, torch.from_numpy(self.labelled.labels[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            optimiser.step()
        return module.eval()

    def _retrained(self) -> "nn.Module":
        from outrider_export.students import find_architecture, new_module
        from outrider_export.training import train

        module = new_module(find_architecture(SMALL), self.world.task, seed=self.world.seed + 1)
        train(module, self.labelled, self.architecture.plan, seed=self.world.seed + 1)
        return module.eval()

    def _released(self, name: str, module: "nn.Module") -> Worth:
        from outrider_export.build import build_bundle
        from outrider_export.parents import parent_of

        world, out = self.world, self.home / name
        report = build_bundle(
            task=world.task,
            model=module,
            architecture=self.architecture,
            tuning=self._table(world.deal.tuning),
            certification=self._table(world.certification(first=name == BEFORE)),
            support=self._table(world.deal.labelled),
            out=out,
            version=name,
            seed=world.seed,
            precisions=("int8", "fp32"),
            forced=("int8",),
            replaces=self.parent,
        )
        if name == BEFORE:
            self.parent = parent_of(out, report.manifest, module)
        _file(out, "fp16").write_bytes(_half(_file(out, "fp32").read_bytes()))
        return self._worth(report)

    def _worth(self, report: "BuildReport") -> Worth:
        test = self.world.table(self.world.questions(self.world.deal.test, QUESTIONS_PLAYED)[:_TEST_QUESTIONS])
        seen, manifest = look(report.bundle, test), report.manifest
        return Worth(
            right=float(seen.right.mean()),
            kept=float(seen.accepted.mean()),
            wrong=float((~seen.right[seen.accepted]).mean()) if seen.accepted.any() else 0.0,
            certified=manifest.certificate is not None,
            agreement=manifest.variants[0].parity["agreement"],
            support=manifest.provenance.get("support", ""),
            as_parent="kept-int8" in manifest.provenance,
        )

    def _table(self, pictures: tuple[int, ...]) -> "Table":
        return self.world.table(self.world.questions(pictures))


def _half(model: bytes) -> bytes:
    """The model with its weights in half precision; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    return bytes(half.SerializeToString(deterministic=True))
