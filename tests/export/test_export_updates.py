"""A release that takes the place of another keeps what still fits of it, and so costs a device little; and gives up what does not."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from outrider_engine.delta.make import make_delta
from outrider_engine.session import OrtSession
from outrider_export.build import BuildReport, build_bundle
from outrider_export.checkpoint import checkpoint_path, load_known
from outrider_export.data import Table, Tensors
from outrider_export.distil import DistilPlan, Taught, adapters_of, distil
from outrider_export.eight_bits import Grid, chosen_in, hold_in_8_bits, still_fits, weight_grid
from outrider_export.parents import Parent, parent_of, still_known
from outrider_export.students import Architecture
from outrider_export.support import fit_known, pooled_features
from outrider_export.training import predict
from outrider_wire.calibration import softmax
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import Task

Squares = Callable[[int, int], Table]
Own = dict[str, object]
ADAPTERS = DistilPlan(epochs=4, translate=1, update="adapters")


@pytest.fixture(scope="module")
def rows(architecture: Architecture, task: Task, squares: Squares) -> Tensors:
    return squares(320, 31).tensors(architecture.inputs(task))


@pytest.fixture(scope="module")
def adapted(trained: torch.nn.Module, rows: Tensors) -> torch.nn.Module:
    """The trained student after a small round; what teaches it leans to the last colour."""
    wanted = softmax(predict(trained, rows) + np.linspace(0, 2, 3, dtype=np.float32))
    lessons = Taught(tensors=rows, probabilities=wanted)
    return distil(trained, unsure=lessons, sure=None, labelled=None, plan=ADAPTERS, seed=0)


def weights(module: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return module.state_dict()


def test_a_small_round_moves_the_adapters_and_nothing_else_to_the_bit(
    trained: torch.nn.Module, adapted: torch.nn.Module
) -> None:
    before, after = weights(trained), weights(adapted)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("head.")}
    assert all(each.requires_grad for each in adapted.parameters())


def test_a_module_that_names_no_adapters_trains_its_last_linear_layer_and_one_without_any_is_refused() -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    assert adapters_of(plain) == [plain[2]]
    with pytest.raises(OperatorConfigError, match="no layers") as refused:
        adapters_of(torch.nn.Conv2d(1, 1, 1))
    assert "--update full" in refused.value.fix


def test_a_grid_is_kept_where_the_weights_fit_and_found_anew_where_they_do_not() -> None:
    values = np.asarray([[0.9, 0.1], [2.0, 0.0], [0.3, 0.1], [0.0, 0.0]], np.float32)
    kept = Grid(scale=np.full(4, 1 / 64, np.float32), zero_point=np.zeros(4, np.int64))
    grid = weight_grid(values, 0, 64, kept)
    assert grid.scale[0] == kept.scale[0]
    assert grid.scale[1] == np.float32(2.0 / 64), "beyond the kept grid"
    assert grid.scale[2] == np.float32(0.3 / 64), "the kept grid would be three times as coarse"
    assert grid.scale[3] == kept.scale[3], "nothing there"
    assert weight_grid(values[:3], 0, 64, kept).scale[0] == np.float32(0.9 / 64), "another number of channels"


@pytest.mark.parametrize(
    ("low", "high", "fits"),
    [(-0.9, 1.5, True), (-1.1, 1.5, True), (-1.5, 1.5, False), (-0.2, 0.4, False), (0.0, np.inf, False)],
)
def test_an_activation_s_grid_is_kept_while_its_values_fill_it_and_stay_in_it(
    low: float, high: float, fits: bool
) -> None:
    grid = Grid(scale=np.asarray(2.55 / 255, np.float32), zero_point=np.asarray(100))  # −1 … 1.55
    assert still_fits(grid, low, high) == fits


def test_weights_in_8_bits_compute_nearly_the_same_in_floating_point_and_are_read_back() -> None:
    rng = np.random.default_rng(0)
    heavy, light = rng.normal(size=(64, 32)).astype(np.float32), rng.normal(size=(32, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="a"),
            helper.make_node("MatMul", ["h", "v"], ["y"], name="b"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(heavy, "w"), numpy_helper.from_array(light, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = rng.normal(size=(50, 64)).astype(np.float32)
    before = OrtSession(model.SerializeToString()).run({"x": x})["y"]
    assert hold_in_8_bits(model.graph, {"a", "b"}, rows=(), top=64, kept={}) == 1, "the small one is not worth a node"
    onnx.checker.check_model(model)
    after = OrtSession(model.SerializeToString()).run({"x": x})["y"]
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()
    found = chosen_in(model.SerializeToString())
    assert found.floating == {"a", "b"}
    assert np.allclose(found.weights["w"].scale, np.abs(heavy).max(0) / 64)


@pytest.mark.parametrize("transposed", [0, 1])
def test_inputs_with_units_of_their_own_have_a_scale_each_whichever_way_the_weights_lie(transposed: int) -> None:
    """Inputs of a size of 1 to 10,000, and weights that make them equals: a scale an output would leave nothing of most."""
    rng = np.random.default_rng(0)
    sizes = np.logspace(0, 4, 64, dtype=np.float32)
    weight = (rng.normal(size=(64, 24)) / sizes[:, None]).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="a", transB=transposed)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 24])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T if transposed else weight), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = (rng.normal(size=(50, 64)) * sizes).astype(np.float32)
    assert hold_in_8_bits(model.graph, {"a"}, rows={"a"}, top=64, kept={}) == 1
    found = OrtSession(model.SerializeToString()).run({"x": x})["y"]
    assert np.abs(found - x @ weight).max() < 0.05 * np.abs(x @ weight).max()


def test_the_parent_s_distance_holds_for_an_adapted_module_and_not_for_another(
    trained: torch.nn.Module, adapted: torch.nn.Module, rows: Tensors
) -> None:
    parent = Parent(module=trained, known=fit_known(pooled_features(trained, rows)), files={})
    same, other = still_known(parent, adapted, rows), copy.deepcopy(trained)
    with torch.no_grad():
        for each in other.encoder.parameters():
            each.add_(0.3 * torch.randn(each.shape, generator=torch.Generator().manual_seed(0)))
    moved = still_known(parent, other, rows)
    assert same is not None and same.holds
    assert (same.correlation, same.drift) == (1.0, 0.0)
    assert moved is not None and not moved.holds
    assert moved.says.startswith("fitted anew")
    assert still_known(Parent(module=trained, files={}), adapted, rows) is None


@pytest.fixture(scope="module")
def own(architecture: Architecture, task: Task, squares: Squares) -> Own:
    return {"task": task, "architecture": architecture, "tuning": squares(150, 2), "certification": squares(250, 33)}


def released(own: Own, module: torch.nn.Module, known: Table, out: Path, replaces: Parent | None) -> BuildReport:
    return build_bundle(model=module, support=known, out=out, version=out.name, replaces=replaces, **own)  # type: ignore[arg-type]  # one dict


@pytest.fixture(scope="module")
def parent(built: BuildReport, trained: torch.nn.Module) -> Parent:
    return parent_of(built.bundle, built.manifest, trained)


@pytest.fixture(scope="module")
def grown(squares: Squares) -> Table:
    """What the model knows, more than when the parent was made."""
    return squares(260, 34)


@pytest.fixture(scope="module")
def following(
    own: Own, adapted: torch.nn.Module, parent: Parent, grown: Table, tmp_path_factory: pytest.TempPathFactory
) -> BuildReport:
    """The adapted module as the next release."""
    return released(own, adapted, grown, tmp_path_factory.mktemp("following") / "next", parent)


@pytest.fixture(scope="module")
def alone(own: Own, adapted: torch.nn.Module, grown: Table, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """The same as a release that takes nobody's place."""
    return released(own, adapted, grown, tmp_path_factory.mktemp("alone") / "next", None)


def delta_of(before: BuildReport, after: BuildReport) -> int:
    name = "model.int8.onnx"
    return len(make_delta((before.bundle / name).read_bytes(), (after.bundle / name).read_bytes()))


def test_a_release_after_a_small_round_costs_a_fraction_of_what_one_of_its_own_costs(
    built: BuildReport, following: BuildReport, alone: BuildReport
) -> None:
    assert delta_of(built, following) < 0.4 * delta_of(built, alone)


def test_it_says_what_it_kept_and_is_certified_itself(built: BuildReport, following: BuildReport) -> None:
    manifest = following.manifest
    assert manifest.provenance["support"].startswith("kept from the parent")
    assert "kept-int8" in manifest.provenance
    assert not {"support", "kept-int8"} & built.manifest.provenance.keys()
    assert manifest.certificate is not None
    assert manifest.certificate != built.manifest.certificate
    assert manifest.variants[0].parity["agreement"] >= 0.98


def test_what_the_support_distance_was_taken_from_lies_beside_the_bundle(
    built: BuildReport, following: BuildReport, alone: BuildReport
) -> None:
    before, after, fresh = (load_known(checkpoint_path(each.bundle)) for each in (built, following, alone))
    assert len(before) == 2
    assert all(np.array_equal(a.factor, b.factor) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(before[1].factor, fresh[1].factor), "the negative control: these rows say otherwise"


@pytest.mark.slow
def test_the_same_parent_rows_and_seed_give_the_same_digest(  # noqa: PLR0917 -- pytest passes fixtures by name
    own: Own, adapted: torch.nn.Module, parent: Parent, grown: Table, following: BuildReport, tmp_path: Path
) -> None:
    assert released(own, adapted, grown, tmp_path / "next", parent).digest == following.digest
