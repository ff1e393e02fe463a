"""Models before and after an update, as ONNX bytes: what ``outrider bench ota`` takes deltas between. Measures nothing.

The demo's small model is the one before; after it come one round of distillation from the demo's large model, a tuning of the
last layer alone, and the same architecture trained from other random weights (a far retrain: nothing but the graph is alike).
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from outrider.demo.models import SMALL, Models, look, make_models
from outrider.demo.world import World, make_world
from outrider.progress import Tell
from outrider_export.beside import checkpoint_path

if TYPE_CHECKING:
    from torch import nn

    from outrider_export.data import Tensors

PRECISIONS = ("fp32", "fp16", "int8")
CHANGES = ("round", "small-round", "last-layer", "retrain")
"""What becomes of the model, in this order of cost."""
_SURE = 0.95
_CALIBRATION_ROWS, _SUPPORT_ROWS = 256, 2_000
_LAST_LAYER_STEPS = 60


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


def make_pairs(folder: Path, *, seed: int, tell: Tell) -> list[Pair]:
    """All pairs, from ``folder`` if this seed's are there; otherwise trained (about a minute and a half) and kept there.

    Raises:
        OperatorSetupError: a library of the extras ``export`` and ``demo`` is absent.
    """
    world = make_world(seed, tell)
    models = make_models(world, folder / "models", tell)
    key = hashlib.sha256(checkpoint_path(models.small).read_bytes() + Path(__file__).read_bytes()).hexdigest()[:8]
    home = folder / "ota" / f"seed-{seed}-{key}"
    if not (home / "whole").is_file():
        home.mkdir(parents=True, exist_ok=True)
        for name, data in _Maker(world, models, tell).all():
            (home / f"{name}.onnx").write_bytes(data)
        (home / "whole").touch()
    return [
        Pair(
            change=change,
            precision=precision,
            before=(home / f"before-{precision}.onnx").read_bytes(),
            after=(home / f"{change}-{precision}.onnx").read_bytes(),
        )
        for change in CHANGES
        for precision in PRECISIONS
    ]


class _Maker:
    def __init__(self, world: World, models: Models, tell: Tell) -> None:
        import torch

        from outrider_export.checkpoint import load_checkpoint

        torch.set_num_threads(1)
        self.world, self.models, self.tell = world, models, tell
        self.before, self.architecture = load_checkpoint(checkpoint_path(models.small), world.task)
        self.inputs = self.architecture.inputs(world.task)
        self.labelled = self._tensors(world.deal.labelled)
        self.tuning = self._tensors(world.deal.tuning)

    def all(self) -> list[tuple[str, bytes]]:
        """(``before`` or a change, and the precision) → ONNX."""
        makes: dict[str, Callable[[], nn.Module]] = {
            "before": lambda: self.before,
            "round": lambda: self._distilled(epochs=15, learning_rate=2e-3),
            "small-round": lambda: self._distilled(epochs=1, learning_rate=1e-4),
            "last-layer": self._last_layer,
            "retrain": self._retrained,
        }
        found = []
        for done, (name, make) in enumerate(makes.items()):
            self.tell(f"training: {name}", done / len(makes))
            found += [(f"{name}-{precision}", data) for precision, data in self._exported(make()).items()]
        return found

    def _tensors(self, pictures: tuple[int, ...]) -> "Tensors":
        return self.world.table(self.world.questions(pictures)).tensors(self.inputs, self.world.task.inputs)

    def _distilled(self, *, epochs: int, learning_rate: float) -> "nn.Module":
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
            plan=DistilPlan(epochs=epochs, learning_rate=learning_rate),
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

    def _exported(self, module: "nn.Module") -> dict[str, bytes]:
        from outrider_export.variants import make_variants

        rng = np.random.default_rng(self.world.seed)
        some = self.labelled.take(np.sort(rng.permutation(len(self.labelled))[:_CALIBRATION_ROWS]))
        support = self.labelled.take(np.sort(rng.permutation(len(self.labelled))[:_SUPPORT_ROWS]))
        files = make_variants(
            module,
            self.inputs,
            tuning=self.tuning,
            calibration=some,
            support=support,
            precisions=("fp32", "int8"),
        ).files
        plain = files["model.fp32.onnx"]
        return {"fp32": plain, "fp16": _half(plain), "int8": files["model.int8.onnx"]}


def _half(model: bytes) -> bytes:
    """The model with its weights in half precision; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    return bytes(half.SerializeToString(deterministic=True))
