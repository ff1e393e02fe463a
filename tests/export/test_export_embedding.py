"""The embedding that an answer memory finds answers by: exported when asked for, and the same at every precision."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider_engine.model import load_model
from outrider_export.asking import ask
from outrider_export.build import build_bundle
from outrider_export.data import Table
from outrider_export.parity import cosine_distances
from outrider_export.students import Architecture
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import Task


class Opaque(torch.nn.Module):
    """A module that gives logits and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.mean((2, 3)))


@pytest.fixture(scope="module")
def embedding_bundle(  # noqa: PLR0917 -- pytest passes fixtures by name
    trained: torch.nn.Module,
    architecture: Architecture,
    task: Task,
    training_rows: Table,
    squares: Callable[[int, int], Table],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out: Path = tmp_path_factory.mktemp("bundles") / "with-embedding"
    build_bundle(
        task=task,
        model=trained,
        architecture=architecture,
        tuning=squares(150, 2),
        certification=squares(250, 3),
        support=training_rows,
        out=out,
        version="1",
        embedding=True,
    )
    return out


def test_the_embedding_stands_for_the_image_and_its_parity_is_on_record(embedding_bundle: Path) -> None:
    manifest = load_model(embedding_bundle).manifest
    assert (manifest.outputs.embedding, manifest.embedding_parts) == ("embedding", ["image"])
    by_name = {variant.name: variant.parity for variant in manifest.variants}
    assert by_name["fp32"]["embedding_max"] < 1e-5
    assert by_name["int8"]["embedding_mean"] < 0.01


def test_the_device_gets_the_encoding_that_the_module_makes(
    embedding_bundle: Path, trained: torch.nn.Module, squares: Callable[[int, int], Table]
) -> None:
    model, rows = load_model(embedding_bundle), squares(20, 9)
    prepared = [model.prepare(rows.parts(row)) for row in range(len(rows))]
    got = [inference.embedding for inference in model.infer(prepared)]
    with torch.inference_mode():
        wanted = trained.encode(torch.from_numpy(np.stack([each["image"] for each in prepared]))).numpy()  # type: ignore[operator]  # a shipped student
    away = cosine_distances(np.stack([each for each in got if each is not None]), wanted)
    assert away.max() < 0.05
    strangers = cosine_distances(np.roll(wanted, 1, axis=0), wanted)
    assert away.mean() < 0.2 * strangers.mean()


def test_the_embedding_changes_no_answer(
    embedding_bundle: Path, built: object, squares: Callable[[int, int], Table], task: Task
) -> None:
    rows = squares(60, 11)
    plain, embedding = (
        load_model(folder)
        for folder in (built.bundle, embedding_bundle)  # type: ignore[attr-defined]  # a BuildReport
    )
    said = [ask(model, rows.tensors(model.manifest.inputs)).probabilities for model in (plain, embedding)]
    assert (said[0].argmax(1) == said[1].argmax(1)).mean() > 0.97
    assert plain.manifest.outputs.embedding is None


def test_a_module_without_an_encoding_is_told_what_it_lacks(
    architecture: Architecture, task: Task, squares: Callable[[int, int], Table], tmp_path: Path
) -> None:
    with pytest.raises(OperatorConfigError, match="no embedding to export") as caught:
        build_bundle(
            task=task,
            model=Opaque(),
            architecture=architecture,
            tuning=squares(60, 2),
            certification=None,
            out=tmp_path / "bundle",
            version="1",
            embedding=True,
        )
    assert "encode(first)" in caught.value.fix
